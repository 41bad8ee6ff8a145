"""The optimiser inside another library's wrapper."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from nero.optimizer import Nero


def unwrap(optimizer: Any) -> Nero:
    """The `nero.Nero` inside the wrapper that a library has put around it.

    Wrappers show groups and state of what they wrap; `path`, `skipped_neurons` and `project_` are
    on the optimiser itself. accelerate, Lightning, Fabric and DeepSpeed keep it as `.optimizer`,
    some of them several deep.

    Args:
        optimizer: an optimiser, wrapped or not.

    Raises:
        TypeError: there is no `nero.Nero` inside.

    Examples:
        >>> import torch, nero
        >>> optimizer = nero.Nero(torch.nn.Linear(4, 2).parameters())
        >>> nero.integrations.unwrap(optimizer) is optimizer
        True
    """
    inside = optimizer
    while isinstance(deeper := getattr(inside, "optimizer", None), Optimizer):
        inside = deeper
    if not isinstance(inside, Nero):
        raise TypeError(f"optimizer must be a nero.Nero or wrap one, got {type(inside).__name__}")
    return inside
