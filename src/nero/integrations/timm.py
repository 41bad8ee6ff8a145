"""timm: Nero under a name in timm's registry of optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from nero.model.for_model import for_model
from nero.optimizer import Nero

try:
    from timm.optim import OptimInfo
    from timm.optim._optim_factory import default_registry
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    message = "nero.integrations.timm needs timm: pip install timm"
    raise ModuleNotFoundError(message, name="timm") from None


def groups_of(**options: Any) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """What `timm.optim.create_optimizer_v2` takes as `param_group_fn`.

    Args:
        **options: arguments of `nero.for_model` but the model; `fresh` has to be given.

    Returns:
        A function of a model that returns the groups of the recommended optimiser, each with its
        learning rate, momentum and cap. New weights are drawn or projected by it.

    Examples:
        >>> import timm, nero.integrations.timm
        >>> nero.integrations.timm.register()
        >>> optimizer = timm.optim.create_optimizer_v2(
        ...     timm.create_model("test_vit", num_classes=10),
        ...     "nero",
        ...     param_group_fn=nero.integrations.timm.groups_of(fresh=True),
        ... )
        >>> type(optimizer).__name__, optimizer.param_groups[0]["lr"]
        ('Nero', 0.05)
    """

    def param_group_fn(model: nn.Module) -> list[dict[str, Any]]:
        return for_model(model, **options).param_groups

    return param_group_fn


def register() -> None:
    """Put Nero into timm's registry as "nero", for `create_optimizer_v2` and timm's own scripts.

    `create_optimizer_v2` passes `weight_decay`, which has to be 0, and `lr`, which groups that have
    one of their own leave unused. It makes groups by their axes, or by layer for `layer_decay`;
    those lack the neurons and raise ValueError: `param_group_fn` makes the right ones.
    """
    info = OptimInfo("nero", _build, "Neuronal rotator", has_eps=False)  # type: ignore[arg-type]
    default_registry.register(info)


def _build(params: Any, **options: Any) -> Nero:
    groups = list(params)
    if not all(isinstance(group, dict) and "neuron_axes" in group for group in groups):
        raise ValueError(
            "timm's own groups do not say what the neurons are: give create_optimizer_v2 the "
            "model and param_group_fn=nero.integrations.timm.groups_of(fresh=...) or "
            "param_group_fn=nero.param_groups"
        )
    return Nero(groups, **options)
