"""From records to results: what is recorded of each task of the benchmark."""

import math
from collections.abc import Sequence

from nero_lab.experiments.task import Variant
from nero_lab.records.store import Record, Records
from nero_lab.studies.one_setting.cases import Case
from nero_lab.studies.one_setting.contestants import Contestant
from nero_lab.studies.one_setting.scores import Cell, Result
from nero_lab.sweeps.comparison import selection_split


def collect(
    cases: Sequence[Case],
    contestants: Sequence[Contestant],
    records: Records,
    seeds: Sequence[int],
    quick: bool,
) -> list[Result]:
    """Return the results of the tasks of which every contestant's grid is recorded.

    Args:
        cases: the tasks.
        contestants: who takes part.
        records: where the records are.
        seeds: which count; the first has the grids.
        quick: whether it is the quick version.
    """
    found = (_result(case, contestants, records, seeds, quick) for case in cases)
    return [each for each in found if each is not None]


def _result(
    case: Case,
    contestants: Sequence[Contestant],
    records: Records,
    seeds: Sequence[int],
    quick: bool,
) -> Result | None:
    if case.comparison(contestants, seeds[:1], quick).missing(records.get):
        return None
    chance = case.chance if case.chance is not None else _untrained(case, records, quick)
    if chance is None:
        return None
    comparison = case.comparison(contestants, seeds, quick)

    def cell(variant: Variant, lr: float) -> Cell:
        found = (records.get(comparison.run(variant, lr, seed)) for seed in seeds)
        return _cell([record for record in found if record is not None], case.measure)

    cells = {
        variant.name: {lr: cell(variant, lr) for lr in comparison.lrs(variant)}
        for variant in comparison.variants
    }
    return Result(case.name, case.metric, chance, cells)


def _untrained(case: Case, records: Records, quick: bool) -> float | None:
    """Return the metric of a network that has made no step, None where it is not recorded."""
    *_, untrained = case.preparations(quick)
    (run,) = untrained.due(records.get)
    record = records.get(run)
    return None if record is None else record.result.metric("test", case.measure)


def _cell(records: Sequence[Record], measure: str) -> Cell:
    first = records[0].result
    split = selection_split(records[0])
    steps = (step or 0.0 for step in first.curves.get("step", ()))
    return Cell(
        val=_mean(records, split, measure),
        test=_mean(records, "test", measure),
        curve=tuple(zip(steps, first.curves.get(f"{split}_{measure}", ()), strict=True)),
        seconds=first.seconds / first.steps if first.steps else math.nan,
        seeds=len(records),
    )


def _mean(records: Sequence[Record], part: str, measure: str) -> float | None:
    """Return the mean over seeds; None where one diverged or has no finite number."""
    values = [
        record.result.metric(part, measure) if record.result.status == "finished" else None
        for record in records
    ]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) else None
