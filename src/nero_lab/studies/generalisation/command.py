"""`nero study generalisation` and `nero study margins`: train what is missing, write the tables."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nero_lab.data.found import FoundData
from nero_lab.data.parts import MissingData
from nero_lab.experiments.run import Run
from nero_lab.experiments.task import Task
from nero_lab.records.store import Record, Records
from nero_lab.studies.generalisation.findings import find
from nero_lab.studies.generalisation.grid import Grid
from nero_lab.studies.generalisation.information import PUBLISHED, information
from nero_lab.studies.generalisation.margins import SOURCES, Case
from nero_lab.studies.generalisation.pictures import save_measures, save_turning
from nero_lab.studies.generalisation.table import margin_tables, study_tables
from nero_lab.sweeps.grid import OpenPool, train_missing_runs
from nero_lab.sweeps.jobs import JobMaker
from nero_lab.tasks.controlled_margin import ControlledMargin
from nero_lab.tasks.even_odd import EvenOdd
from nero_lab.training.messages import say_error


def run_generalisation(
    grid: Grid, out: Path, data: Path | None, pool: OpenPool, fresh: bool, console: Console
) -> int:
    """Train and measure the networks that are not recorded, then write what predicted.

    Args:
        grid: which networks.
        out: folder of records and tables; made if missing.
        data: folder with the data; None: wherever they usually are.
        pool: opens the workers.
        fresh: set old records aside and train everything again.
        console: where to print.

    Returns:
        The exit code: 0; 1 where runs failed or data are missing; 130 after Ctrl-C.
    """
    code, known = _train(EvenOdd(), grid.runs(), out, data, pool, fresh, console)
    if known:
        findings = find(known)
        save_measures(findings, out / "measures.png")
        save_turning(known, out / "turning.png")
        _write(study_tables(findings), out, console)
    return code


def run_margins(
    cases: Sequence[Case],
    out: Path,
    data: Path | None,
    pool: OpenPool,
    fresh: bool,
    console: Console,
) -> int:
    """Train what is missing of the published comparisons, and write them beside the published.

    Args:
        cases: which comparisons.
        out: as for `run_generalisation`.
        data: as for `run_generalisation`.
        pool: as for `run_generalisation`.
        fresh: as for `run_generalisation`.
        console: as for `run_generalisation`.

    Returns:
        The exit code, as `run_generalisation`.
    """
    task = ControlledMargin()
    runs = {run.plan_id: run for case in cases for run in case.runs()}
    code, known = _train(task, list(runs.values()), out, data, pool, fresh, console)
    if known:
        by_plan = {record.run.plan_id: record for record in known}
        rows = [_case_row(case, [by_plan[run.plan_id] for run in case.runs()]) for case in cases]
        rows += _information_rows(task.find_data(data), task.presets["cpu"].seeds)
        _write(margin_tables(rows), out, console)
    return code


def _train(
    task: Task,
    runs: Sequence[Run],
    out: Path,
    data: Path | None,
    pool: OpenPool,
    fresh: bool,
    console: Console,
) -> tuple[int, list[Record]]:
    """Return the exit code, and the records of all runs; none while some are missing."""
    records = Records(out)
    if fresh and (kept := records.set_aside(task.name)):
        console.print(f"Set aside: {kept}", soft_wrap=True, highlight=False, markup=False)
    maker = JobMaker(out, {} if data is None else {task.name: data})
    try:
        found = [maker.make(run).run for run in runs]
    except MissingData as error:
        say_error(console, error)
        return 1, []
    code = train_missing_runs(lambda: found, records, {task.name: task}, maker, pool, console)
    known = [record for run in found if (record := records.get(run)) is not None]
    if len(known) < len(found):
        console.print(f"{len(known)} of {len(found)} runs are recorded; no tables yet.")
        return code, []
    return code, known


def _write(tables: str, out: Path, console: Console) -> None:
    path = out / "table.md"
    path.write_text(tables, "utf-8")
    console.print(tables, soft_wrap=True, highlight=False, markup=False)
    written = ", ".join(each.name for each in [path, *sorted(out.glob("*.png"))])
    console.print(f"Written to {out}: {written}.", soft_wrap=True, highlight=False, markup=False)


def _case_row(case: Case, records: Sequence[Record]) -> list[str]:
    values = [value for each in records if (value := case.value(each.result)) is not None]
    published = "-" if case.published is None else f"{case.published:.3f}"
    return [SOURCES[case.source], case.what, published, _spread(values)]


def _information_rows(found: FoundData, seeds: Sequence[int]) -> list[list[str]]:
    rows = []
    for random, (estimate, bound) in PUBLISHED.items():
        draws = [information(found, random=random, seed=seed) for seed in seeds]
        labels = "random" if random else "true"
        for name, published, values in (
            ("estimator", f"{estimate:.3f}", [each.estimate for each in draws]),
            ("closed form", f"{bound:.3f}", [each.closed_form for each in draws]),
            ("closed form with the best scale", "-", [each.best_scale for each in draws]),
        ):
            what = f"bound on the test error from the {name}, {labels} labels"
            rows.append([SOURCES["information"], what, published, _spread(values)])
    return rows


def _spread(values: Sequence[float]) -> str:
    text = f"{sum(values) / len(values):.3f}"
    return text if len(values) == 1 else f"{text} [{min(values):.3f}, {max(values):.3f}]"
