"""Which runs an experiment needs, and which learning rate each of its arms ends up with.

Every arm tries its grid on the first seed. The rate with the best validation metric there and the
out-of-the-box rate are then trained on the other seeds too, and the better of these two by the mean
over all seeds is its best one. No choice looks at the test part, unless the experiment has no
validation part at all.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nero_lab.experiments.runs import Record, Run, arm_spec, plan_run
from nero_lab.optimizers import OptimizerSpec
from nero_lab.sweeps.selection import best_lr
from nero_lab.tasks.base import Arm, Metric, Preset, Task

FindRun = Callable[[Run], Record | None]

LEARNED = 1.5
"""A metric below so many times chance counts as nothing learned; a negative one, such as a return,
below chance divided by it.
"""


@dataclass(frozen=True)
class Outcome:
    """What a choice of learning rate looks at in a record."""

    usable: bool
    val_metric: float

    @classmethod
    def of(cls, record: Record, metric: Metric) -> "Outcome":
        """Return the validation metric at the end; the test metric where there is no such part."""
        result = record.result
        value = result.metric(selection_split(record), metric.name)
        usable = result.status == "finished" and value is not None and math.isfinite(value)
        return cls(usable, math.nan if value is None else value)


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
    def arms(self) -> tuple[Arm, ...]:
        """Return the arms, in the order of the table."""
        return self.preset.arms

    def spec(self, arm: Arm) -> OptimizerSpec:
        """Return the row of the arm's optimiser, with what the arm has instead."""
        return arm_spec(arm)

    def lrs(self, arm: Arm) -> tuple[float, ...]:
        """Return the learning rates that an arm tries: its grid, and the one out of the box."""
        spec = self.spec(arm)
        return tuple(sorted({*spec.lr_grid, spec.default_lr}))

    def run(self, arm: Arm, lr: float, seed: int) -> Run:
        """Return one run, on whatever data."""
        return plan_run(self.task, self.preset, arm, lr, seed)

    def outcomes(self, arm: Arm, lr: float, find: FindRun) -> list[Outcome]:
        """Return what is recorded at a learning rate, in the order of the seeds."""
        found = (find(self.run(arm, lr, seed)) for seed in self.preset.seeds)
        return [Outcome.of(record, self.task.metric) for record in found if record is not None]

    def shortlisted_lr(self, arm: Arm, find: FindRun) -> float | None:
        """Return the first seed's best rate on validation, None while some are not trained.

        A rate at which the run diverged counts below all others. Among equals, and where no rate
        gets beyond chance, the out-of-the-box rate wins, and then the smaller one.
        """
        outcomes = {}
        for lr in self.lrs(arm):
            record = find(self.run(arm, lr, self.preset.seeds[0]))
            if record is None:
                return None
            outcomes[lr] = [Outcome.of(record, self.task.metric)]
        default = self.spec(arm).default_lr
        return best_lr(
            outcomes, self.task.metric, favoured=default, indifferent=learned_from(self.task.metric)
        )

    def chosen_lrs(self, arm: Arm, find: FindRun) -> list[float]:
        """Return the rates that are trained on every seed, as far as they are known."""
        shortlisted = self.shortlisted_lr(arm, find)
        default = self.spec(arm).default_lr
        return sorted({default, *([] if shortlisted is None else [shortlisted])})

    def best_lr(self, arm: Arm, find: FindRun) -> float | None:
        """Return the best rate: the shortlisted one, unless all seeds together prefer the default.

        None while the grid is not trained.
        """
        shortlisted = self.shortlisted_lr(arm, find)
        if shortlisted is None:
            return None
        outcomes = {lr: self.outcomes(arm, lr, find) for lr in self.chosen_lrs(arm, find)}
        if any(len(runs) < len(self.preset.seeds) for runs in outcomes.values()):
            return shortlisted
        return best_lr(outcomes, self.task.metric, favoured=shortlisted)

    def due(self, find: FindRun) -> list[Run]:
        """Return every run that is known to be needed, trained or not; grids first."""
        first, *others = self.preset.seeds
        grids = [self.run(arm, lr, first) for arm in self.arms for lr in self.lrs(arm)]
        repeats = [
            self.run(arm, lr, seed)
            for arm in self.arms
            for lr in self.chosen_lrs(arm, find)
            for seed in others
        ]
        return grids + repeats

    def missing(self, find: FindRun) -> list[Run]:
        """Return the runs that are known to be needed and have no record."""
        return [run for run in self.due(find) if find(run) is None]

    def undecided(self, find: FindRun) -> Iterator[Run]:
        """Yield the most runs that may still turn out to be needed, once the grids are in.

        An arm whose grid is not in yet may find another best rate than the one out of the box, and
        would train it on the other seeds. Of a grid of one rate nothing is open.
        """
        for arm in self.arms:
            lrs, default = self.lrs(arm), self.spec(arm).default_lr
            if len(lrs) > 1 and self.shortlisted_lr(arm, find) is None:
                other = next(lr for lr in lrs if lr != default)
                for seed in self.preset.seeds[1:]:
                    yield self.run(arm, other, seed)
