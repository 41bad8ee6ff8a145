"""Run a study: its progress, its tables, and what happens when it is interrupted."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nero_lab.records.old import RecordStore
from nero_lab.studies.plan import Study
from nero_lab.studies.report import headings, settings, table_cells, table_rows, write_report
from nero_lab.sweep import RunFailed, WorkerDied
from nero_lab.sweeps.progress import open_records, train_missing
from nero_lab.train import weights_path
from nero_lab.training.context import INTERRUPTED


def run_study(study: Study, out: Path, jobs: int, fresh: bool, console: Console) -> int:
    """Train what is missing, then print the tables and write the report.

    Args:
        study: which one.
        out: directory of the records and the report; made if missing.
        jobs: processes that train.
        fresh: set old records aside and train everything again.
        console: where to print.

    Returns:
        The exit code: 0, 1 where a run failed, or 130 after Ctrl-C.
    """
    start = time.monotonic()
    store = open_records(out, fresh, console)
    if study.left_out:
        console.print(f"Quick: {study.left_out}")
    _forget_lost_weights(study, store)
    trouble = _problem(lambda: train_missing(study, store, jobs, console))
    _print_tables(study, store, console)
    files = write_report(study, store.get, out, finished=not trouble)
    if trouble:
        done = sum(store.get(config) is not None for config in study.runs.values())
        console.print(
            f"[bold red]{trouble}[/] Finished runs kept in {store.path}: {done}.", soft_wrap=True
        )
        console.print("The same command again trains the rest.")
        return INTERRUPTED if trouble == _INTERRUPTION else 1
    beside = ", ".join(file.name for file in (store.path, *files[1:]))
    console.print(f"Written: {files[0]}. Beside it: {beside}.", soft_wrap=True)
    console.print(f"It took {time.monotonic() - start:.0f} s with {jobs} processes.")
    return 0


_INTERRUPTION = "Interrupted."


def _problem(train: Callable[[], None]) -> str:
    """Return what kept the training from its end, or nothing."""
    try:
        train()
    except KeyboardInterrupt:
        return _INTERRUPTION
    except (WorkerDied, RunFailed) as error:
        return f"Stopped: {error}."
    return ""


def _forget_lost_weights(study: Study, store: RecordStore) -> None:
    """Count a run as not done where others start from its weights and these are gone."""
    for config in study.pretraining():
        if not weights_path(config).exists():
            store.records.pop(config.run_id, None)


def _print_tables(study: Study, store: RecordStore, console: Console) -> None:
    # A pipe has no width: give the tables their own, so that no cell is cut.
    wide = console if console.is_terminal else Console(file=console.file, width=220)
    for case in study.cases:
        table = Table(title=case.title, title_justify="left")
        for heading in headings(case):
            table.add_column(heading)
        rows = table_rows(study, case, store.get)
        for index, cells in enumerate(table_cells(case, rows)):
            following = rows[index + 1].arm.varies if index + 1 < len(rows) else None
            last = following is not None and following != rows[index].arm.varies
            table.add_row(*cells, end_section=last)
        wide.print(table)
        for line in settings(study, case, rows):
            console.print(f"- {line}", highlight=False, markup=False)
        console.print()
