"""The paper's experiments by figure and by name, and their records in a folder."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nero_lab.analysis.measured import Measured, measure
from nero_lab.experiments.task import Task
from nero_lab.records.store import Records
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.table import PAPER_TASKS, TASKS, load_task

ALL = "all"


def figure_of(task: Task) -> str | None:
    """Return the figure that a task belongs to, such as "fig3" for "3 right"; None: to none."""
    number = re.match(r"\d+", task.figure)
    return None if number is None else f"fig{number[0]}"


def comparisons(preset: str) -> list[Comparison]:
    """Return the paper's experiments that have a preset of that name, in the order of figures.

    Raises:
        ValueError: none has.
    """
    tasks = [load_task(name) for name in PAPER_TASKS]
    found = [Comparison(task, task.presets[preset]) for task in tasks if preset in task.presets]
    if not found:
        names = sorted({name for task in tasks for name in task.presets})
        raise ValueError(f"no experiment has a preset {preset!r}; choose from {', '.join(names)}")
    return found


def select(names: Sequence[str], preset: str) -> list[Comparison]:
    """Return the experiments of figures ("fig3"), by their names ("deep-mlp"), or "all" of them.

    Raises:
        ValueError: a name is no figure's and no experiment's.
    """
    every = comparisons(preset)
    figures = [figure_of(comparison.task) for comparison in every]
    known = {each.task.name for each in every} | set(filter(None, figures)) | {ALL}
    for name in names:
        if name not in known:
            raise ValueError(f"no figure or experiment {name!r}; choose from {_listed(known)}")
    return [
        each
        for each, figure in zip(every, figures, strict=True)
        if not names or {ALL, each.task.name, figure} & set(names)
    ]


def _listed(known: Iterable[str]) -> str:
    return ", ".join(sorted(known, key=lambda name: (not name.startswith("fig"), name)))


def by_figure(experiments: Iterable[Measured]) -> dict[str, list[Measured]]:
    """Return experiments by the figure that shows them; those of no figure by their names."""
    found: dict[str, list[Measured]] = {}
    for each in experiments:
        found.setdefault(figure_of(each.comparison.task) or each.name, []).append(each)
    return found


def measured(every: Iterable[Comparison], records: Records) -> list[Measured]:
    """Return what is recorded of each experiment, once for each data set that it ran on."""
    return [
        each
        for comparison in every
        for each in measure(comparison, records.of_task(comparison.task.name))
    ]


def evidence(experiments: Iterable[Measured]) -> Mapping[str, Measured]:
    """Return the experiments by name, each on the data set with most records."""
    found: dict[str, Measured] = {}
    for each in experiments:
        found.setdefault(each.name, each)
    return found


def recorded(
    folder: Path, tasks: Sequence[Task] = ()
) -> tuple[list[Comparison], Records, list[str]]:
    """Return the experiments and presets that have records in a folder.

    Args:
        folder: with a JSONL file for each task.
        tasks: tasks besides those of the paper.

    Returns:
        The comparisons in the order of figures, the records, and a sentence for each part of them
        that is in none of the comparisons.
    """
    records = Records(folder)
    own = {task.name: task for task in tasks}
    names = [path.stem for path in sorted(folder.glob("*.jsonl"))]
    ordered = [name for name in (*TASKS, *own) if name in names]
    found = []
    missing = [
        f"{name}.jsonl: no task is called {name!r}. Name its file with --task."
        for name in names
        if name not in ordered
    ]
    for name in ordered:
        task = own.get(name) or load_task(name)
        for preset, runs in Counter(each.run.preset for each in records.of_task(name)).items():
            if preset in task.presets:
                found.append(Comparison(task, task.presets[preset]))
            else:
                missing.append(f"{name}.jsonl: {runs} runs of preset {preset!r}, which it has not.")
    return found, records, missing
