"""From records to results: what is recorded of each task of the benchmark, and what is missing."""

import math
from collections.abc import Sequence

from nero_lab.experiments.task import Variant
from nero_lab.records.store import Record, Records
from nero_lab.studies.one_setting.cases import Case
from nero_lab.studies.one_setting.contestants import Contestant
from nero_lab.studies.one_setting.scores import Cell, Result
from nero_lab.sweeps.comparison import selection_split

FIRST_SEED = (0,)
"""on which grids are trained"""
FURTHER = 2
"""rates by which a grid grows at most"""


def longer_grids(
    case: Case, contestants: Sequence[Contestant], records: Records, quick: bool
) -> tuple[Contestant, ...]:
    """Return the contestants, with further rates where the best one is the last of a grid.

    A grid that is not recorded on the first seed stays as it is, as all do in the quick version.
    """
    return tuple(each if quick else _longer(case, each, records) for each in contestants)


def _longer(case: Case, contestant: Contestant, records: Records) -> Contestant:
    for _ in range(FURTHER):
        comparison = case.comparison((contestant,), FIRST_SEED, quick=False)
        best = comparison.shortlisted_lr(comparison.variants[0], records.get)
        if best is not None:
            contestant = contestant.with_rate_beyond(best)
    return contestant


def collect(
    cases: Sequence[Case],
    contestants: Sequence[Contestant],
    records: Records,
    seeds: Sequence[int],
    quick: bool,
) -> list[Result]:
    """Return the results of the tasks of which every contestant's grid is recorded, longer or not.

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
    contestants = longer_grids(case, contestants, records, quick)
    if case.comparison(contestants, FIRST_SEED, quick).missing(records.get):
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
    tests = _values(records, "test", measure)
    steps = (step or 0.0 for step in first.curves.get("step", ()))
    return Cell(
        val=_mean(_values(records, split, measure)),
        test=_mean(tests),
        curve=tuple(zip(steps, first.curves.get(f"{split}_{measure}", ()), strict=True)),
        seconds=first.seconds / first.steps if first.steps else math.nan,
        tests=tests,
    )


def _values(records: Sequence[Record], part: str, measure: str) -> list[float | None]:
    """Return the metric of each record; None where it diverged or has no finite number."""
    found = (
        record.result.metric(part, measure) if record.result.status == "finished" else None
        for record in records
    )
    return [None if value is None or not math.isfinite(value) else value for value in found]


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean over seeds; None where one diverged."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
