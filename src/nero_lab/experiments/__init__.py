"""What an experiment is: tasks, presets, variants, runs and their results."""
