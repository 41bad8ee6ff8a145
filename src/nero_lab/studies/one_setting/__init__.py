"""The benchmark of one setting for every network: each optimiser at one setting on all tasks."""
