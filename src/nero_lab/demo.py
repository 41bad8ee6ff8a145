"""The demo: its table, and what happens when it is interrupted."""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nero_lab.findings import findings
from nero_lab.plan import Plan, Preset
from nero_lab.records.old import RecordStore
from nero_lab.report import write_report
from nero_lab.results import HEADINGS, table_cells, table_rows
from nero_lab.sweep import RunFailed, WorkerDied
from nero_lab.sweeps.progress import open_records, train_missing
from nero_lab.training.context import INTERRUPTED


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
    store = open_records(out, fresh, console)
    plan = Plan(preset)
    if preset.left_out:
        console.print(f"Preset {preset.name}: {preset.left_out}")
    exit_code, trouble = 0, ""
    try:
        train_missing(plan, store, jobs, console)
    except KeyboardInterrupt:
        exit_code, trouble = INTERRUPTED, "Interrupted."
    except (WorkerDied, RunFailed) as error:
        exit_code, trouble = 1, f"Stopped: {error}."
    _print_table(plan, store, console)
    files = write_report(plan, store.get, out, finished=exit_code == 0)
    if exit_code:
        done = sum(store.get(config) is not None for config in plan.due(store.get))
        kept = f"[bold red]{trouble}[/] Finished runs kept in {store.path}: {done}."
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
