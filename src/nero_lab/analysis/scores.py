"""What a variant measured at one learning rate: a number for each seed, and how tables show it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nero_lab.experiments.task import Metric

Standing = Literal["better", "worse", "level"]


@dataclass(frozen=True)
class Scores:
    """One number of each seed that is in; None where it was not finite."""

    values: tuple[float | None, ...]
    wanted: int
    """of how many seeds there should be a number"""
    diverged: int
    metric: Metric
    digits: int = 4
    """decimal places in text"""

    @property
    def finite(self) -> list[float]:
        """Return the numbers that are finite, the best first."""
        known = [value for value in self.values if value is not None and math.isfinite(value)]
        return sorted(known, key=self.metric.rank, reverse=True)

    @property
    def mean(self) -> float | None:
        """Return the mean over all seeds that are in, None where one has no number."""
        known = self.finite
        return sum(known) / len(known) if known and len(known) == len(self.values) else None

    @property
    def complete(self) -> bool:
        """Return whether every seed is in."""
        return len(self.values) >= self.wanted

    def number(self, value: float) -> str:
        """Return one number in text, in as many decimal places, or four digits from 10 on."""
        return f"{value:.{self.digits}f}" if abs(value) < 10 else f"{value:#.4g}"

    def __str__(self) -> str:
        """Return "mean [worst, best]", and what the reader must know about it."""
        if not self.values:
            return "-"
        text = "not finite" if self.mean is None else self.number(self.mean)
        if self.mean is not None and len(self.values) > 1:
            text += f" [{self.number(self.finite[-1])}, {self.number(self.finite[0])}]"
        remarks = []
        if self.diverged:
            remarks.append(f"{self.diverged} diverged")
        if not self.complete:
            remarks.append(f"{len(self.values)} of {self.wanted} seeds")
        return text + (f" ({', '.join(remarks)})" if remarks else "")


def standing(one: Scores, other: Scores) -> Standing:
    """Return how one stands to another: "better" where its worst seed beats the other's best.

    A seed that diverged or has no finite number is worse than any number. Ranges that overlap, or
    touch, are "level".
    """
    low, high = _range(one)
    other_low, other_high = _range(other)
    if low > other_high:
        return "better"
    if high < other_low:
        return "worse"
    return "level"


def _range(scores: Scores) -> tuple[float, float]:
    """Return the ranks of the worst and the best seed."""
    ranks = list(map(scores.metric.rank, scores.finite))
    if scores.diverged or len(ranks) < len(scores.values) or not ranks:
        ranks.append(-math.inf)
    return min(ranks), max(ranks)


def mean(values: Iterable[float]) -> float:
    """Return the mean of numbers of which there is at least one."""
    known = list(values)
    return sum(known) / len(known)
