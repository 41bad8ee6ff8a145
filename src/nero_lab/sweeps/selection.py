"""Which learning rate of a grid wins, by the validation metric alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nero_lab.experiments.task import Metric


@dataclass(frozen=True)
class Outcome:
    """What the selection of a learning rate looks at in the result of a run."""

    usable: bool
    """whether the run got to its end with a number for its validation metric"""
    val_metric: float


def best_lr(
    outcomes: Mapping[float, Sequence[Outcome]],
    metric: Metric,
    favoured: float,
    indifferent: float = -math.inf,
) -> float:
    """Return the learning rate with the best mean validation metric.

    Args:
        outcomes: by learning rate, the result of each seed; as many for each rate.
        metric: what is compared, and which way it is better.
        favoured: which rate wins among equals, such as the default one; then the smaller.
        indifferent: means whose rank is not above this are all equal: differences between runs that
            learned nothing are noise, and choosing by them would only cost further runs.

    Returns:
        One of the rates. One at which a run diverged counts below all others.
    """

    def preference(lr: float) -> tuple[bool, float, bool, float]:
        runs = outcomes[lr]
        if not all(run.usable for run in runs):
            return False, -math.inf, lr == favoured, -lr
        rank = metric.rank(sum(run.val_metric for run in runs) / len(runs))
        return True, max(rank, indifferent), lr == favoured, -lr

    return max(outcomes, key=preference)
