"""Training curves of a variant at one learning rate: each seed's, their mean and their range."""

from dataclasses import dataclass
from functools import cached_property

from nero_lab.analysis.measured import Measured, Series
from nero_lab.analysis.table import headline
from nero_lab.records.store import Record
from nero_lab.sweeps.comparison import learned_from

COLUMNS = ("default learning rate", "best of its grid")
"""the two kinds of learning rate that are drawn"""


@dataclass(frozen=True)
class SeedCurve:
    """What one run measured on its way; points without a finite number are left out."""

    record: Record
    x: tuple[float, ...]
    y: tuple[float, ...]

    @property
    def diverged(self) -> bool:
        """Return whether the run broke off."""
        return self.record.result.status == "diverged"


@dataclass(frozen=True)
class Curve:
    """The runs of a variant at one learning rate."""

    series: Series
    lr: float
    what: str
    """which curve of the records, such as "val_accuracy" """
    seeds: tuple[SeedCurve, ...]

    @cached_property
    def points(self) -> list[tuple[float, float, float, float]]:
        """Return x, mean, least and greatest over the seeds that have a number there.

        A diverged run ends early: from there on its seed is missing from mean and range.
        """
        values: dict[float, list[float]] = {}
        for seed in self.seeds:
            for x, y in zip(seed.x, seed.y, strict=True):
                values.setdefault(x, []).append(y)
        return [(x, sum(ys) / len(ys), min(ys), max(ys)) for x, ys in sorted(values.items())]


def curve_name(measured: Measured) -> str | None:
    """Return the curve by which learning is shown: on validation, or else on test or training."""
    names = {name for record in measured.records for name in record.result.curves}
    wanted = (f"{split}_{measured.metric.name}" for split in ("val", "test", "train"))
    return next((name for name in wanted if name in names), None)


def x_name(measured: Measured) -> str:
    """Return what the curves run over: epochs, or steps where an experiment has none."""
    has_epochs = all("epoch" in record.result.curves for record in measured.records)
    return "epoch" if has_epochs else "step"


def curves(measured: Measured, column: str) -> list[Curve]:
    """Return the curves of all variants at one kind of learning rate (see COLUMNS)."""
    what, x = curve_name(measured), x_name(measured)
    drawn = []
    for series in measured.series:
        lr = series.default_lr if column == COLUMNS[0] else series.best_lr
        if what is None or lr is None:
            continue
        seeds = tuple(_seed_curve(record, x, what) for record in series.at(lr))
        if any(seed.x for seed in seeds):
            drawn.append(Curve(series, lr, what, seeds))
    return drawn


def _seed_curve(record: Record, x: str, what: str) -> SeedCurve:
    columns = record.result.curves
    points = [
        (float(at), value)
        for at, value in zip(columns.get(x, ()), columns.get(what, ()), strict=False)
        if at is not None and value is not None
    ]
    return SeedCurve(record, tuple(at for at, _ in points), tuple(value for _, value in points))


def flat(curve: Curve) -> bool:
    """Return whether a curve stays at what a network reaches that has learned nothing."""
    metric = curve.series.metric
    return all(metric.rank(mean) <= learned_from(metric) for _, mean, _, _ in curve.points)


def logarithmic(measured: Measured) -> bool:
    """Return whether the metric is best drawn on a logarithmic axis: perplexities, distances."""
    if measured.metric.better == "higher":
        return False
    low, high = _extremes(measured)
    return low > 0 and high > 5 * low


def limits(measured: Measured) -> tuple[float, float]:
    """Return the least and greatest value to draw, the same in all panels of an experiment.

    What is more than a thousand times worse than the best, as just before a divergence, lies
    beyond: it would leave no room to see the others apart.
    """
    low, high = _extremes(measured)
    if measured.metric.better == "lower" and low > 0:
        return low, min(high, _FAR * low)
    return low, high


def beyond(measured: Measured, value: float) -> bool:
    """Return whether a value is too far off to be drawn where it is."""
    low, high = limits(measured)
    return not low <= value <= high


_FAR = 1000.0


def _extremes(measured: Measured) -> tuple[float, float]:
    values = [
        y
        for column in COLUMNS
        for curve in curves(measured, column)
        for seed in curve.seeds
        for y in seed.y
    ]
    for series in measured.series:
        values += [v for key in series.records if (v := series.selection(*key)) is not None]
        values += [each.value for each in headline(series.published, series.metric)]
    return (min(values), max(values)) if values else (0.1, 1.0)
