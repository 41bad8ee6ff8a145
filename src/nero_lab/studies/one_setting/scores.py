"""Regret at one setting, and profiles of the time to a target.

The regret of a run is the share of what can be learned that it did not learn:
(best - value) / (best - chance), from 0 for the best of all to 1 for chance or worse, and 1 where
the run diverged. `best` is the best that any contestant reaches at the best rate of its grid.

The time to a target is the first step at which a run's validation metric was within TOLERANCE of
the best's. A profile says on how many tasks a contestant was at most r times as slow as the
fastest (G. E. Dahl et al., "Benchmarking neural network training algorithms", 2023,
arXiv:2306.07179, section 4.4); its area from 1 to LONGEST is one number.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nero_lab.experiments.task import Metric

TOLERANCE = 0.05
"""the regret that counts as having reached the target"""
SLACK = 0.01
"""of regret, within which a rate is as good as the best one"""
LONGEST = 4.0
"""times the fastest, up to which profiles go"""


@dataclass(frozen=True)
class Cell:
    """What a contestant reaches on a task at one learning rate, over the seeds that are in."""

    val: float | None
    """the mean of the metric at the end; None where a run diverged or it is not finite"""
    test: float | None
    curve: Sequence[tuple[float, float | None]] = ()
    """of the first seed: step, and the metric on validation"""
    seconds: float = math.nan
    """of training, for a step"""
    tests: Sequence[float | None] = ()
    """the metric on the test part of each seed that is in"""


@dataclass(frozen=True)
class Result:
    """All that is recorded of a task: every contestant at every rate of its grid."""

    case: str
    metric: Metric
    chance: float
    cells: Mapping[str, Mapping[float, Cell]]
    """by contestant and learning rate"""

    def best_lr(self, contestant: str) -> float:
        """Return the rate with the best validation metric; the smaller one among equals."""
        cells = self.cells[contestant]
        return max(sorted(cells), key=lambda lr: _rank(self.metric, cells[lr].val))

    def peak_lr(self, contestant: str) -> float:
        """Return the best rate between those of the grid.

        It is where the parabola through the best rate and its neighbours has its peak, validation
        metric over the logarithm of the rate. The best rate itself at an end of the grid, or beside
        a rate at which training diverged.
        """
        cells, best = self.cells[contestant], self.best_lr(contestant)
        lrs = sorted(cells)
        at = lrs.index(best)
        near = lrs[max(0, at - 1) : at + 2]
        ranks = [_rank(self.metric, cells[lr].val) for lr in near]
        if len(near) < 3 or not all(map(math.isfinite, ranks)):
            return best
        (x0, x1, x2), (y0, y1, y2) = map(math.log, near), ranks
        before, after = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
        # The slope falls from `before`, halfway to the first, to `after`, halfway to the last.
        middle = (x0 + x1) / 2 + (x2 - x0) / 2 * before / (before - after)
        return math.exp(middle)

    def good_lrs(self, contestant: str) -> list[float]:
        """Return the rates, in order, whose regret on validation is within SLACK of the best's."""
        lrs = sorted(self.cells[contestant])
        regrets = {lr: self.regret(contestant, lr, "val") for lr in lrs}
        return [lr for lr in lrs if regrets[lr] <= regrets[self.best_lr(contestant)] + SLACK]

    def best(self, part: str) -> float:
        """Return the best metric of all contestants at their best rates.

        Args:
            part: "val" or "test".
        """
        ends = [getattr(cells[self.best_lr(name)], part) for name, cells in self.cells.items()]
        known = (end for end in ends if end is not None)
        return max(known, key=self.metric.rank, default=self.chance)

    def regret(self, contestant: str, lr: float, part: str = "test") -> float:
        """Return the regret of a contestant at a learning rate."""
        value = getattr(self.cells[contestant][lr], part)
        if value is None:
            return 1.0
        best = self.best(part)
        lost = self.metric.rank(best) - self.metric.rank(value)
        whole = self.metric.rank(best) - self.metric.rank(self.chance)
        return min(1.0, max(0.0, lost / whole)) if whole > 0 else 0.0

    def steps_to_target(self, contestant: str, lr: float) -> float:
        """Return the first step at which the target was reached; infinite where it never was."""
        best = self.metric.rank(self.best("val"))
        target = best - TOLERANCE * (best - self.metric.rank(self.chance))
        for step, value in self.cells[contestant][lr].curve:
            if value is not None and self.metric.rank(value) >= target:
                return step
        return math.inf


def _rank(metric: Metric, value: float | None) -> float:
    return -math.inf if value is None else metric.rank(value)


@dataclass(frozen=True)
class Regret:
    """The regret of a contestant at a setting, over tasks."""

    worst: float
    where: str
    """the task"""
    mean: float


def regret_over(
    results: Sequence[Result], contestant: str, lrs: Mapping[str, float], part: str = "test"
) -> Regret:
    """Return the worst and the mean regret over tasks.

    Args:
        results: of the tasks, at least one.
        contestant: whose.
        lrs: its learning rate on each task, by name.
        part: "val" or "test".
    """
    regrets = {each.case: each.regret(contestant, lrs[each.case], part) for each in results}
    where = max(regrets, key=lambda case: regrets[case])
    return Regret(regrets[where], where, sum(regrets.values()) / len(regrets))


def best_single_lr(results: Sequence[Result], contestant: str) -> float:
    """Return the rate of the grid with the least worst regret on validation, then the least mean.

    Of rates that every task has; the smaller one among equals.
    """
    lrs = set.intersection(*(set(each.cells[contestant]) for each in results))

    def cost(lr: float) -> tuple[float, float]:
        found = regret_over(results, contestant, {each.case: lr for each in results}, "val")
        return found.worst, found.mean

    return min(sorted(lrs), key=cost)


def ratios(
    results: Iterable[Result], lrs: Mapping[str, Mapping[str, float]]
) -> dict[str, list[float]]:
    """Return for each contestant and task its steps to the target over those of the fastest.

    Args:
        results: of the tasks.
        lrs: by contestant, its learning rate on each task.

    Returns:
        By contestant; infinite where it did not reach the target.
    """
    found: dict[str, list[float]] = {name: [] for name in lrs}
    for result in results:
        steps = {name: result.steps_to_target(name, lr[result.case]) for name, lr in lrs.items()}
        fastest = min(steps.values())
        for name, own in steps.items():
            found[name].append(own / fastest if math.isfinite(own) else math.inf)
    return found


def profile(some_ratios: Sequence[float], r: float) -> float:
    """Return on which share of the tasks a contestant took at most r times the fastest's steps."""
    return sum(ratio <= r for ratio in some_ratios) / len(some_ratios)


def area(some_ratios: Sequence[float]) -> float:
    """Return the mean of the profile over r from 1 to LONGEST: 1 for the fastest everywhere."""
    shares = [max(0.0, LONGEST - ratio) / (LONGEST - 1) for ratio in some_ratios]
    return sum(shares) / len(shares)
