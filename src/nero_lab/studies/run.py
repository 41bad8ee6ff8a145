"""Train what a study still misses, and show what is recorded of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from nero_lab.analysis.catalogue import measured
from nero_lab.analysis.files import write_files
from nero_lab.analysis.show import print_together
from nero_lab.experiments.run import variant_spec
from nero_lab.experiments.task import Task, Variant
from nero_lab.records.environment import environment
from nero_lab.records.store import Records
from nero_lab.sweeps.comparison import Comparison
from nero_lab.sweeps.due import train_comparisons
from nero_lab.sweeps.grid import OpenPool
from nero_lab.sweeps.jobs import JobMaker
from nero_lab.training.messages import say

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Study:
    """Comparisons that settle a question together."""

    title: str
    comparisons: tuple[Comparison, ...]

    @property
    def starts(self) -> set[str]:
        """Return the plan_ids of the runs whose final weights others start from."""
        runs = [run for each in self.comparisons for run in each.due(lambda run: None)]
        return {run.start["run"] for run in runs if run.start is not None}


def full_grid(
    task: Task, name: str, variants: Sequence[Variant], quick: bool, **changes: Any
) -> Comparison:
    """Return a comparison in which every variant tries every learning rate on every seed.

    Args:
        task: with a preset "cpu", from which it comes, and a preset "tiny" for the quick version.
        name: of the preset.
        variants: what is compared.
        quick: one seed and each variant's default learning rate alone, on tiny data.
        **changes: fields of the preset.
    """
    seeds = SEEDS[:1] if quick else SEEDS
    if quick:
        variants = [replace(each, lr_grid=(variant_spec(each).default_lr,)) for each in variants]
    fields = {"groups": None, "deviations": "", **changes}
    preset = replace(
        task.presets["tiny" if quick else "cpu"],
        name=name,
        variants=tuple(variants),
        seeds=seeds,
        grid_seeds=len(seeds),
        **fields,
    )
    return Comparison(task, preset)


def run_study(
    study: Study, out: Path, data: Path | None, pool: OpenPool, fresh: bool, console: Console
) -> int:
    """Train what is missing, then print the tables and write page, tables and pictures.

    Args:
        study: which one.
        out: folder of the records and of all that is written; made if missing.
        data: folder with the data; None: wherever they usually are.
        pool: opens the workers.
        fresh: set old records aside and train everything again.
        console: where to print.

    Returns:
        The exit code: 0; 1 where runs failed or data are missing; 130 after Ctrl-C.
    """
    start = time.monotonic()
    tasks = list(dict.fromkeys(each.task.name for each in study.comparisons))
    records = Records(out)
    for name in tasks if fresh else ():
        if kept := records.set_aside(name):
            say(console, f"Set aside: {kept}")
    _report_records(records, tasks, console)
    folders = {} if data is None else dict.fromkeys(tasks, data)
    maker = JobMaker(out, folders, starts=study.starts)
    code = train_comparisons(study.comparisons, records, maker, pool, console)
    # A pipe has no width: give the tables their own, so that no cell is cut.
    wide = console if console.is_terminal else Console(file=console.file, width=200)
    experiments = measured(study.comparisons, records)
    print_together(study.title, experiments, wide)
    written = write_files(experiments, out)
    names = [*(f"{name}.jsonl" for name in tasks), *(path.name for path in written[1:])]
    say(console, f"Open {written[0]} (works without a network).")
    say(console, f"Beside it: {', '.join(names)}.")
    console.print(f"It took {time.monotonic() - start:.0f} s.", highlight=False)
    return code


def _report_records(records: Records, tasks: Sequence[str], console: Console) -> None:
    """Print how many records are of another version of the library, and how many are unreadable."""
    here = environment()["nero"]
    older = sum(
        record.environment.get("nero") != here for name in tasks for record in records.of_task(name)
    )
    if older:
        console.print(
            f"{older} recorded runs were made by another version of nero; --fresh trains "
            "everything again.",
            highlight=False,
        )
    for path, lines in records.unreadable():
        console.print(f"{lines} unreadable lines in {path} are passed over.", markup=False)
