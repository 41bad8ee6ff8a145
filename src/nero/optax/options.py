"""The options that the transformations share, checked where their values are known."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

NONFINITE = ("skip", "propagate")


class Options(NamedTuple):
    """What `nero.optax.nero` takes besides the learning rate and the neurons."""

    center: bool = True
    radius: Any = "unit"
    beta: Any = 0.999
    momentum: Any = None
    max_turn: Any = None
    orthogonal: bool = False
    nonfinite: str = "skip"
    relative: bool = False

    @property
    def has_momentum(self) -> bool:
        """Whether there is a running average of gradients; a traced momentum has one."""
        return self.momentum is not None and not (_is_number(self.momentum) and not self.momentum)

    @property
    def number(self) -> Any:
        """The norm of every neuron, where it is the same for all."""
        return 1.0 if self.radius == "unit" else self.radius

    def checked(self) -> Options:
        """These options.

        Raises:
            ValueError: one is out of its range; those that are traced are not looked at.
            TypeError: one is of a wrong type.
        """
        for name in ("beta", "momentum"):
            value = getattr(self, name)
            if _is_number(value) and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value!r}")
        if _is_number(self.max_turn) and not 0 < self.max_turn < math.inf:
            raise ValueError(f"max_turn must be positive and finite or None, got {self.max_turn!r}")
        radius: Any = self.radius
        named = isinstance(radius, str) and radius not in ("unit", "initial")
        if named or (_is_number(radius) and not 0 < float(radius) < math.inf):
            raise ValueError(
                f'radius must be "unit", "initial", a positive float or None, got {radius!r}'
            )
        if self.nonfinite == "raise":
            raise ValueError(
                'nonfinite="raise" needs a value on the host in every step, which a compiled step '
                "does not have: use optax.apply_if_finite, or jax.experimental.checkify"
            )
        if self.nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must be one of {NONFINITE}, got {self.nonfinite!r}")
        for name in ("center", "orthogonal", "relative"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        return self


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
