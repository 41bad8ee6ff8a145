"""The command line of the tasks: `nero tasks`."""


def tasks() -> None:
    """List the tasks that can be trained, and the figure of the paper that each belongs to."""
    from nero_lab.cli.tables import print_table
    from nero_lab.tasks.table import TASKS, load_task

    found = [load_task(name) for name in TASKS]
    rows = [(task.name, task.figure, ", ".join(task.presets), task.title) for task in found]
    print_table(("task", "figure", "presets", "what it is"), rows)
