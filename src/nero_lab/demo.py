"""The demo: its progress, its table, and what happens when it is interrupted."""

import os
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nero_lab.findings import findings
from nero_lab.plan import Plan, Preset, cost
from nero_lab.records import RecordStore, RunRecord
from nero_lab.report import write_report
from nero_lab.results import HEADINGS, table_cells, table_rows
from nero_lab.sweep import RunFailed, WorkerDied, local_processes, run_sweep, train_in_worker

INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


def run_demo(preset: Preset, out: Path, jobs: int, fresh: bool, console: Console) -> int:
    """Train what is missing, then print the table and write the report.

    Args:
        preset: which comparison.
        out: directory of the records and the report; made if missing.
        jobs: processes that train.
        fresh: set old records aside and train everything again.
        console: where to print.

    Returns:
        The exit code: 0, 1 where a run failed, or 130 after Ctrl-C.
    """
    start = time.monotonic()
    path = out / "records.jsonl"
    if fresh and path.exists():
        path.replace(path.with_suffix(".jsonl.old"))
    store = RecordStore(path)
    plan = Plan(preset)
    if preset.left_out:
        console.print(f"Preset {preset.name}: {preset.left_out}")
    if store.unreadable:
        console.print(f"{store.unreadable} unreadable lines in {path} are passed over.")
    exit_code, trouble = 0, ""
    try:
        _train_missing(plan, store, jobs, console)
    except KeyboardInterrupt:
        exit_code, trouble = INTERRUPTED, "Interrupted."
    except (WorkerDied, RunFailed) as error:
        exit_code, trouble = 1, f"Stopped: {error}."
    _print_table(plan, store, console)
    files = write_report(plan, store.get, out, finished=exit_code == 0)
    if exit_code:
        done = sum(store.get(config) is not None for config in plan.due(store.get))
        kept = f"[bold red]{trouble}[/] Finished runs kept in {path}: {done}."
        console.print(kept, soft_wrap=True)
        console.print("The same command again trains the rest.")
        return exit_code
    for finding in findings(table_rows(plan, store.get)):
        console.print(f"- {finding}", highlight=False)
    console.print(
        f"\nOpen {files.page} (works without a network). Beside it: records.jsonl, table.md, "
        f"summary.json, {', '.join(picture.name for picture in files.pictures)}.",
        soft_wrap=True,  # a path that is broken over two lines cannot be copied
    )
    console.print(f"It took {time.monotonic() - start:.0f} s with {jobs} processes.")
    return 0


def _train_missing(plan: Plan, store: RecordStore, jobs: int, console: Console) -> None:
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
            finished.append(cost(record.config))
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


def _print_table(plan: Plan, store: RecordStore, console: Console) -> None:
    table = Table(
        title="Deep plain networks on digits: test accuracy, mean over seeds [worst, best]",
        title_justify="left",
    )
    for heading in HEADINGS:
        table.add_column(heading)
    rows = table_rows(plan, store.get)
    for index, cells in enumerate(table_cells(rows)):
        last_of_depth = index + 1 < len(rows) and rows[index + 1].arm.depth != rows[index].arm.depth
        table.add_row(*cells, end_section=last_of_depth)
    # A pipe has no width: give the table its own, so that no cell is cut.
    wide = console if console.is_terminal else Console(file=console.file, width=150)
    wide.print(table)


def default_jobs() -> int:
    """Return how many processes train unless told otherwise: one per core this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
