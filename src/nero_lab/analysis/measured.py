"""Records by experiment and variant: what all tables, figures and claims are made of."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from nero_lab.analysis.scores import Scores
from nero_lab.experiments.run import Run
from nero_lab.experiments.task import Metric, Published, Variant
from nero_lab.optimizers import OPTIMIZERS
from nero_lab.records.store import Record
from nero_lab.sweeps.comparison import Comparison, FindRun, outcome, selection_split
from nero_lab.sweeps.selection import best_lr


@dataclass(frozen=True)
class Series:
    """All that was measured of one variant."""

    name: str
    label: str
    optimizer: str
    metric: Metric
    lrs: tuple[float, ...]
    """the grid and the default learning rate, or what was tried where there is no plan"""
    default_lr: float | None
    """None where it is not known"""
    best_lr: float | None
    """by validation; None while the grid is not trained"""
    seeds: tuple[int, ...]
    records: Mapping[tuple[float, int], Record]
    """by learning rate and seed"""
    published: tuple[Published, ...] = ()
    settings: str = ""
    """of the optimiser besides its learning rate, in words"""

    def at(self, lr: float | None) -> list[Record]:
        """Return the records at a learning rate, in the order of the seeds."""
        found = (self.records.get((lr, seed)) for seed in self.seeds if lr is not None)
        return [record for record in found if record is not None]

    def scores(self, lr: float | None, split: str = "test", metric: str | None = None) -> Scores:
        """Return the final metric of every seed at a learning rate."""
        results = [record.result for record in self.at(lr)]
        return Scores(
            values=tuple(result.metric(split, metric or self.metric.name) for result in results),
            wanted=len(self.seeds),
            diverged=sum(result.status == "diverged" for result in results),
            metric=self.metric,
        )

    def chosen_by(self, record: Record) -> tuple[str, float | None]:
        """Return the part of the data by which rates are chosen, and the run's metric there."""
        split = selection_split(record)
        return split, record.result.metric(split, self.metric.name)

    def selection(self, lr: float, seed: int) -> float | None:
        """Return the number by which rates are chosen; None where not run or not finite."""
        record = self.records.get((lr, seed))
        return None if record is None else self.chosen_by(record)[1]

    def means_by_lr(self) -> list[tuple[float, float]]:
        """Return learning rates with the mean over the seeds of what rates are chosen by.

        A rate of which a seed has no finite number is left out, since the mean of the others
        would flatter it.
        """
        found = []
        for lr in self.lrs:
            values = [self.selection(lr, record.run.seed) for record in self.at(lr)]
            known = [value for value in values if value is not None]
            if known and len(known) == len(values):
                found.append((lr, sum(known) / len(known)))
        return found

    @property
    def at_default(self) -> Scores:
        """Return the test metric at the default learning rate."""
        return self.scores(self.default_lr)

    @property
    def best(self) -> Scores:
        """Return the test metric at the best rate of the grid."""
        return self.scores(self.best_lr)

    @property
    def seconds(self) -> float | None:
        """Return the mean training time of a run, None without any."""
        times = [record.result.seconds for record in self.records.values()]
        return sum(times) / len(times) if times else None


@dataclass(frozen=True)
class Measured:
    """What is recorded of a task at a preset, on one data set."""

    comparison: Comparison
    series: tuple[Series, ...]
    """the variants of the preset, and after them whatever else was run on the task"""
    data_name: str | None
    """None while nothing is recorded"""
    data_digest: str | None = None
    stands_in_for: str | None = None
    missing: int = 0
    """how many runs are known to be needed and have no record"""
    extra: frozenset[str] = field(default_factory=frozenset)
    """names of the series that belong to no variant of the preset"""

    @property
    def name(self) -> str:
        """Return the task's name."""
        return self.comparison.task.name

    @property
    def metric(self) -> Metric:
        """Return the metric by which runs are compared."""
        return self.comparison.task.metric

    @cached_property
    def records(self) -> list[Record]:
        """Return all records."""
        return [record for series in self.series for record in series.records.values()]

    @property
    def diverged(self) -> int:
        """Return how many runs diverged."""
        return sum(record.result.status == "diverged" for record in self.records)

    def variant(self, name: str) -> Series | None:
        """Return the series of that name that has any records."""
        for series in self.series:
            if series.name == name and series.records:
                return series
        return None


def measure(comparison: Comparison, records: Iterable[Record]) -> list[Measured]:
    """Put the records of a task together, once for each data set, the one with most runs first.

    Args:
        comparison: the task and its preset.
        records: of this task; those of other presets and of older recipes are left out.

    Returns:
        At least one: without records, one of series that are empty.
    """
    task, preset = comparison.task, comparison.preset
    planned = {
        comparison.run(variant, lr, seed).plan_id
        for variant in comparison.variants
        for lr in comparison.lrs(variant)
        for seed in preset.seeds
    }
    fitting = [
        record
        for record in records
        if record.run.plan_id in planned
        or (record.run.preset == preset.name and record.run.recipe == task.recipe)
    ]
    data_sets = Counter((r.run.data_name, r.run.data_digest) for r in fitting)
    if not data_sets:
        return [_measured(comparison, [], None, None)]
    return [
        _measured(comparison, [r for r in fitting if _data(r.run) == data], *data)
        for data, _ in data_sets.most_common()
    ]


def _data(run: Run) -> tuple[str | None, str | None]:
    return run.data_name, run.data_digest


def _measured(
    comparison: Comparison, records: Sequence[Record], name: str | None, digest: str | None
) -> Measured:
    by_plan = {record.run.plan_id: record for record in records}

    def find(run: Run) -> Record | None:
        return by_plan.get(run.plan_id)

    planned, used = [], set()
    for variant in comparison.variants:
        series = _planned(comparison, variant, find)
        used |= {record.run.plan_id for record in series.records.values()}
        planned.append(series)
    extra = _unplanned(comparison, [r for r in by_plan.values() if r.run.plan_id not in used])
    return Measured(
        comparison=comparison,
        series=(*planned, *extra),
        data_name=name,
        data_digest=digest,
        stands_in_for=records[-1].data_stands_in_for if records else None,
        missing=len(comparison.missing(find)),
        extra=frozenset(series.name for series in extra),
    )


def _planned(comparison: Comparison, variant: Variant, find: FindRun) -> Series:
    records = {}
    for lr in comparison.lrs(variant):
        for seed in comparison.preset.seeds:
            record = find(comparison.run(variant, lr, seed))
            if record is not None:
                records[lr, seed] = record
    spec = comparison.spec(variant)
    return Series(
        name=variant.name,
        label=variant.label,
        optimizer=variant.optimizer,
        metric=comparison.task.metric,
        lrs=comparison.lrs(variant),
        default_lr=spec.default_lr,
        best_lr=comparison.best_lr(variant, find),
        seeds=comparison.preset.seeds,
        records=records,
        published=variant.published,
        settings=spec.settings(),
    )


def _unplanned(comparison: Comparison, records: Sequence[Record]) -> list[Series]:
    """Return a series for each configuration that was run besides the variants of the preset."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        same = replace(record.run, lr=0.0, seed=0).plan_id
        groups.setdefault(same, []).append(record)
    taken = {variant.name for variant in comparison.variants}
    found = []
    for group in groups.values():
        run = group[0].run
        name = run.variant or run.optimizer
        while name in taken:
            name += "'"
        taken.add(name)
        found.append(_free(comparison, name, group))
    return found


def _free(comparison: Comparison, name: str, records: Sequence[Record]) -> Series:
    run, metric = records[0].run, comparison.task.metric
    # Showing a record runs no code: a user's own optimiser is not looked up.
    spec = OPTIMIZERS.get(run.optimizer)
    by_run = {(record.run.lr, record.run.seed): record for record in records}
    seeds = tuple(sorted({seed for _, seed in by_run}))
    lrs = tuple(sorted({lr for lr, _ in by_run}))
    on_first = {
        lr: [outcome(by_run[lr, seeds[0]], metric)] for lr in lrs if (lr, seeds[0]) in by_run
    }
    default = spec.default_lr if spec is not None else None
    label = run.optimizer.rpartition(":")[2] if spec is None else spec.label
    differing = _differing(comparison, run)
    return Series(
        name=name,
        label=f"{label} ({differing})" if differing else label,
        optimizer=run.optimizer,
        metric=metric,
        lrs=lrs,
        default_lr=default,
        best_lr=best_lr(on_first, metric, favoured=lrs[0] if default is None else default),
        seeds=seeds,
        records=by_run,
        settings=", ".join(
            f"{key} {value}" for key, value in run.optimizer_options.items() if key != "fused"
        ),
    )


def _differing(comparison: Comparison, run: Run) -> str:
    """Return in what a run differs from those of the preset, learning rate and seed apart."""
    if run.optimizer in OPTIMIZERS:
        variant = Variant(run.variant, run.variant, run.optimizer)
        usual = asdict(comparison.run(variant, run.lr, run.seed))
    else:
        usual = asdict(run) | {"optimizer_options": {}}
    parts = []
    for key, value in asdict(run).items():
        if key in ("variant", "preset", "data_name", "data_digest") or value == usual[key]:
            continue
        if isinstance(value, Mapping):
            other = usual[key] or {}
            parts += [f"{k} {v}" for k, v in value.items() if other.get(k) != v and k != "fused"]
        else:
            parts.append(f"{key.replace('_', ' ')} {value}")
    return ", ".join(parts)
