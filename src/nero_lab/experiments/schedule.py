"""Learning-rate schedules: a factor on the learning rate for each step of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["constant", "exponential", "milestones", "cosine", "linear"]


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves over a run; the same for all optimisers of a task.

    Examples:
        >>> Schedule("exponential", gamma=0.9).factor(step=480, steps_per_epoch=240, epochs=50)
        0.81
        >>> round(Schedule("milestones", gamma=0.2, milestones=(2, 3)).factor(30, 10, 5), 3)
        0.04
    """

    kind: Kind = "constant"
    """"constant"; "exponential": x `gamma` after each epoch; "milestones": x `gamma` at each of
    `milestones`; "cosine" and "linear": step by step to zero after the last one"""
    gamma: float = 1.0
    """for "exponential" and "milestones" """
    milestones: Sequence[float] = ()
    """epochs, counted from 0 at the start of the run"""
    warmup_epochs: float = 0.0
    """epochs over which the recipe lets the learning rate rise linearly from zero, whatever the
    optimiser; "cosine" and "linear" fall after it, the others count from the start of the run"""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate of one step.

        Args:
            step: of the whole run, counted from 0.
            steps_per_epoch: number of batches.
            epochs: length of the run.
        """
        warmup = self.warmup_epochs * steps_per_epoch
        if step + 1 < warmup:
            return (step + 1) / warmup * self._decay(step, steps_per_epoch, 0.0)
        falling = epochs * steps_per_epoch - warmup
        return self._decay(step, steps_per_epoch, (step - warmup) / falling if falling else 0.0)

    def _decay(self, step: int, steps_per_epoch: int, fallen: float) -> float:
        """Return the factor without warm-up; `fallen` is how much of the decay is done, 0 to 1."""
        fallen = max(0.0, fallen)
        match self.kind:
            case "exponential":
                return self.gamma ** (step // steps_per_epoch)
            case "milestones":
                passed = sum(step >= epoch * steps_per_epoch for epoch in self.milestones)
                return self.gamma**passed
            case "cosine":
                return (1 + math.cos(math.pi * fallen)) / 2
            case "linear":
                return 1 - fallen
        return 1.0


def warmup_factor(step: int, warmup_steps: float) -> float:
    """Return the factor of a linear rise that reaches 1 in the last of `warmup_steps`."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
