"""Which runs an experiment needs, and which learning rate each of its variants ends up with.

Every variant tries its grid on the first seed, or on as many as the preset says. The rate with the
best validation metric there and the default rate are then trained on the other seeds too, and the
better of these two by the mean over all seeds is its best one. The test part decides nothing,
unless the experiment has no validation part at all.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nero_lab.experiments.run import Run, plan_run, variant_spec
from nero_lab.experiments.task import Metric, Preset, Task, Variant
from nero_lab.optimizers import OptimizerSpec
from nero_lab.records.store import Record
from nero_lab.sweeps.selection import Outcome, best_lr

FindRun = Callable[[Run], Record | None]

LEARNED = 1.5
"""A metric below so many times chance counts as nothing learned; a negative one, such as a return,
below chance divided by it.
"""


def outcome(record: Record, metric: Metric) -> Outcome:
    """Return the validation metric at the end; the test metric where there is no such part."""
    result = record.result
    value = result.metric(selection_split(record), metric.name)
    usable = result.status == "finished" and value is not None and math.isfinite(value)
    return Outcome(usable, math.nan if value is None else value)


def selection_split(record: Record) -> str:
    """Return the part of the data by which learning rates are chosen: "val" where there is one."""
    return "val" if "val" in record.result.metrics else "test"


def learned_from(metric: Metric) -> float:
    """Return the rank above which a network counts as having learned something."""
    if metric.chance is None or metric.better == "lower":
        return -math.inf
    return metric.chance * LEARNED if metric.chance > 0 else metric.chance / LEARNED


@dataclass(frozen=True)
class Comparison:
    """The runs of a task at a preset; some appear once the results of others are in."""

    task: Task
    preset: Preset

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Return the variants, in the order of the table."""
        return self.preset.variants

    def spec(self, variant: Variant) -> OptimizerSpec:
        """Return the row of the variant's optimiser, with what the variant has instead."""
        return variant_spec(variant)

    def lrs(self, variant: Variant) -> tuple[float, ...]:
        """Return the learning rates that a variant tries: its grid, and the default one."""
        spec = self.spec(variant)
        return tuple(sorted({*spec.lr_grid, spec.default_lr}))

    def run(self, variant: Variant, lr: float, seed: int) -> Run:
        """Return one run, on whatever data."""
        return plan_run(self.task, self.preset, variant, lr, seed)

    def outcomes(self, variant: Variant, lr: float, find: FindRun) -> list[Outcome]:
        """Return what is recorded at a learning rate, in the order of the seeds."""
        found = (find(self.run(variant, lr, seed)) for seed in self.preset.seeds)
        return [outcome(record, self.task.metric) for record in found if record is not None]

    @property
    def grid_seeds(self) -> tuple[int, ...]:
        """Return the seeds on which every learning rate is tried."""
        return self.preset.seeds[: self.preset.grid_seeds]

    def shortlisted_lr(self, variant: Variant, find: FindRun) -> float | None:
        """Return the best rate of the grid on validation, None while some runs are not recorded.

        A rate at which the run diverged counts below all others. Among equals, and where no rate
        gets beyond chance, the default rate wins, and then the smaller one.
        """
        outcomes = {}
        for lr in self.lrs(variant):
            found = [find(self.run(variant, lr, seed)) for seed in self.grid_seeds]
            outcomes[lr] = [outcome(each, self.task.metric) for each in found if each]
            if len(outcomes[lr]) < len(found):
                return None
        default = self.spec(variant).default_lr
        return best_lr(
            outcomes, self.task.metric, favoured=default, indifferent=learned_from(self.task.metric)
        )

    def chosen_lrs(self, variant: Variant, find: FindRun) -> list[float]:
        """Return the rates that are trained on every seed, as far as they are known."""
        shortlisted = self.shortlisted_lr(variant, find)
        default = self.spec(variant).default_lr
        return sorted({default, *([] if shortlisted is None else [shortlisted])})

    def best_lr(self, variant: Variant, find: FindRun) -> float | None:
        """Return the best rate: the shortlisted one, unless all seeds together prefer the default.

        None while the grid is not trained.
        """
        shortlisted = self.shortlisted_lr(variant, find)
        if shortlisted is None:
            return None
        outcomes = {lr: self.outcomes(variant, lr, find) for lr in self.chosen_lrs(variant, find)}
        if any(len(runs) < len(self.preset.seeds) for runs in outcomes.values()):
            return shortlisted
        return best_lr(outcomes, self.task.metric, favoured=shortlisted)

    def due(self, find: FindRun) -> list[Run]:
        """Return every run that is known to be needed, trained or not; grids first."""
        others = self.preset.seeds[self.preset.grid_seeds :]
        grids = [
            self.run(variant, lr, seed)
            for seed in self.grid_seeds
            for variant in self.variants
            for lr in self.lrs(variant)
        ]
        repeats = [
            self.run(variant, lr, seed)
            for variant in self.variants
            for lr in self.chosen_lrs(variant, find)
            for seed in others
        ]
        return grids + repeats

    def missing(self, find: FindRun) -> list[Run]:
        """Return the runs that are known to be needed and have no record."""
        return [run for run in self.due(find) if find(run) is None]

    def undecided(self, find: FindRun) -> Iterator[Run]:
        """Yield the most runs that may still turn out to be needed, once the grids are in.

        A variant whose grid is not in yet may find another best rate than the default, and would
        train it on the other seeds. Of a grid of one rate nothing is open.
        """
        for variant in self.variants:
            lrs, default = self.lrs(variant), self.spec(variant).default_lr
            if len(lrs) > 1 and self.shortlisted_lr(variant, find) is None:
                other = next(lr for lr in lrs if lr != default)
                for seed in self.preset.seeds[self.preset.grid_seeds :]:
                    yield self.run(variant, other, seed)
