"""Train what a plan still misses, and show how far it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nero_lab.records.old import RecordStore, RunConfig, RunRecord
from nero_lab.sweep import local_processes, run_sweep, train_in_worker

FindRecord = Callable[[RunConfig], RunRecord | None]


class Runs(Protocol):
    """What a comparison tells about its runs."""

    def due(self, find: FindRecord) -> list[RunConfig]:
        """Return every run that is known to be needed and can be trained, trained or not."""
        ...

    def remaining_at_most(self, find: FindRecord) -> list[float]:
        """Return the costs of all runs that may still come."""
        ...

    def cost(self, config: RunConfig) -> float:
        """Return a number proportional to the time that a run takes."""
        ...


def open_records(out: Path, fresh: bool, console: Console) -> RecordStore:
    """Return the records in directory `out`, those of before set aside where it starts afresh."""
    path = out / "records.jsonl"
    if fresh and path.exists():
        path.replace(path.with_suffix(".jsonl.old"))
    store = RecordStore(path)
    if store.unreadable:
        console.print(f"{store.unreadable} unreadable lines in {path} are passed over.")
    return store


def train_missing(plan: Runs, store: RecordStore, jobs: int, console: Console) -> None:
    """Train what is due and not recorded, on `jobs` processes, with a bar or lines of progress."""
    to_come = plan.remaining_at_most(store.get)
    if not to_come:
        console.print("All runs are recorded already; --fresh trains them again.")
        return
    done_before = sum(store.get(config) is not None for config in plan.due(store.get))
    kept = f", {done_before} are recorded already" if done_before else ""
    console.print(f"Up to {len(to_come)} runs to train on {jobs} processes{kept}.")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left:"),
    )
    # A run takes seconds, so a speed needs more than the usual half minute to settle.
    with Progress(
        *columns, TimeRemainingColumn(), console=console, speed_estimate_period=120
    ) as progress:
        bar = progress.add_task(f"0/{len(to_come)} runs", total=sum(to_come))
        finished: list[float] = []

        def show(record: RunRecord) -> None:
            finished.append(plan.cost(record.config))
            left = plan.remaining_at_most(store.get)
            runs = len(finished) + len(left)
            progress.update(
                bar,
                completed=sum(finished),
                total=sum(finished) + sum(left),
                description=f"{len(finished)}/{runs} runs",
            )
            # Without a terminal there is no bar: a line now and then shows that it lives.
            if not console.is_terminal and (len(finished) % 10 == 0 or not left):
                console.print(f"{len(finished)}/{runs} runs")

        with local_processes(jobs) as executor:
            run_sweep(lambda: plan.due(store.get), store, executor, train_in_worker, show)
