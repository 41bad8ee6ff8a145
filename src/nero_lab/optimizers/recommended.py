"""`nero.for_model` as a row of the table: built from the model and one training batch."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

import nero


def recommended(
    model: nn.Module,
    lr: float = 0.05,
    *,
    batch: Any = None,
    fresh: bool = True,
    groups: Mapping[str, Any] | None = None,
    **options: Any,
) -> Optimizer:
    """Return the optimiser that `nero.for_model` recommends.

    Args:
        model: the network, or the part of it that this optimiser trains.
        lr: `turn` of `nero.for_model`; its default.
        batch: arguments of the model; None: neither depth nor head are looked for.
        fresh: whether the weights may be drawn anew.
        groups: arguments of `nero.param_groups`; "head", "embedding" and "overrides" count here.
        **options: other arguments of `nero.for_model`, such as momentum.

    Examples:
        >>> import torch
        >>> from nero_lab.optimizers.recommended import recommended
        >>> optimizer = recommended(torch.nn.Linear(8, 4), batch=torch.zeros(2, 8), momentum=0.0)
        >>> [group["role"] for group in optimizer.param_groups]
        ['head', 'bias']
    """
    named = {key: value for key, value in (groups or {}).items() if key in _NAMED}
    return nero.for_model(model, batch=batch, fresh=fresh, turn=lr, **named, **options)


def without_momentum(model: nn.Module, lr: float = 0.05, **arguments: Any) -> Optimizer:
    """Return the same without momentum, whose state is a number for each neuron."""
    return recommended(model, lr, **{"momentum": 0.0, **arguments})


_NAMED = ("head", "embedding", "overrides")
