"""Made-up records of an experiment, through the real record classes; nothing is trained."""

import math
from collections.abc import Callable

from nero_lab.data.found import FoundData
from nero_lab.experiments.run import Result, Run
from nero_lab.experiments.task import Metric
from nero_lab.records.store import Record
from nero_lab.sweeps.comparison import Comparison

DATA = FoundData("Made-up digits", "0123456789abcdef", None, "MNIST")


def fake_record(
    run: Run,
    metric: Metric,
    end: float | None,
    *,
    status: str = "finished",
    test: float | None = None,
    splits: tuple[str, ...] = ("train", "val", "test"),
    data: FoundData = DATA,
) -> Record:
    """Return a record whose curve nears `end`, or breaks off half way where it diverged.

    Args:
        run: what was run.
        metric: of the task.
        end: its value at the end, None where it is not finite.
        status: "finished" or "diverged".
        test: the value on the test part, where it is another.
        splits: the parts of the data.
        data: what it ran on.
    """
    epochs = run.epochs if status == "finished" else max(1, run.epochs // 2)
    start = (metric.chance or 0.0) if metric.better == "higher" else 1000.0
    target = start if end is None else end
    curve = [
        target + (start - target) * math.exp(-4 * (epoch + 1) / epochs) for epoch in range(epochs)
    ]
    curve[-1] = target
    at_end = dict.fromkeys(splits, end)
    if test is not None:
        at_end["test"] = test
    evaluated = "val" if "val" in splits else "test"
    result = Result(
        status=status,  # pyright: ignore[reportArgumentType]
        steps=40 * epochs,
        seconds=1.5 * epochs,
        metrics={split: {metric.name: value} for split, value in at_end.items()},
        curves={
            "epoch": [epoch + 1 for epoch in range(epochs)],
            "step": [40 * (epoch + 1) for epoch in range(epochs)],
            "train_loss": [2.3 / (epoch + 1) for epoch in range(epochs)],
            f"train_{metric.name}": curve,
            f"{evaluated}_{metric.name}": curve,
        },
    )
    return Record(
        run.on(data),
        result,
        data.stand_in_for,
        environment={"python": "3", "cores": 2},
        commit="0" * 40,
        recorded_at="2026-01-01T00:00:00+00:00",
    )


Ending = Callable[[Run], tuple[float | None, str]]
"""What a made-up run ends with, and its status."""


def by_distance(best: float, chance: float, optimum: dict[str, float]) -> Ending:
    """Return an ending that falls off around an optimiser's optimum and diverges far above it.

    Args:
        best: metric at the optimum.
        chance: metric where nothing is learned.
        optimum: by variant, the best rate; a variant that is not in it learns nothing.
    """

    def end(run: Run) -> tuple[float | None, str]:
        if run.variant not in optimum:
            return chance + 0.001 * run.seed, "finished"
        decades = math.log10(run.lr / optimum[run.variant])
        if decades > 1.5:
            return None, "diverged"
        share = math.exp(-(decades**2)) * (1 - 0.02 * run.seed)
        return chance + (best - chance) * share, "finished"

    return end


def fake_records(comparison: Comparison, end: Ending, data: FoundData = DATA) -> list[Record]:
    """Return a record of every run that a comparison needs, decided as results come in."""
    found: dict[str, Record] = {}

    def find(run: Run) -> Record | None:
        return found.get(run.plan_id)

    while missing := comparison.missing(find):
        for run in missing:
            value, status = end(run)
            found[run.plan_id] = fake_record(
                run, comparison.task.metric, value, status=status, data=data
            )
    return list(found.values())
