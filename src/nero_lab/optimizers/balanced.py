"""The balanced projection after another optimiser's step: the "with" curves of figure 2."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

import nero

AnOptimizer = TypeVar("AnOptimizer", bound=Optimizer)


def balance_params_(params: Iterable[Tensor] | Iterable[Mapping[str, Any]]) -> None:
    """Put the neurons of parameters or groups on their constraint set, in place.

    Args:
        params: tensors, or groups as `nero.param_groups` makes them, of tensors or (name, tensor)
            pairs. Where a group does not say otherwise, the first axis of a tensor counts its
            neurons, and these get mean 0 and norm 1. Tensors with one axis or none stay.
    """
    for each in params:
        group: Mapping[str, Any] = each if isinstance(each, Mapping) else {"params": [each]}
        # What keeps its initial norm is centred at the most, as in `nero.balance_`.
        radius = {"unit": 1.0, "initial": None}.get(
            group.get("radius", "unit"), group.get("radius")
        )
        axes, center = group.get("neuron_axes", (0,)), group.get("center", True)
        for entry in group["params"]:
            p = entry if isinstance(entry, Tensor) else entry[1]
            if p.ndim > 1 and (center or radius is not None):
                layout = nero.NeuronLayout(tuple(p.shape), axes)
                nero.geometry.project_(p, layout, center=center, radius=radius)


def keep_balanced(optimizer: AnOptimizer) -> AnOptimizer:
    """Balance an optimiser's parameters after each of its steps from now on.

    A step at learning rate 0 changes nothing, since weights that are on the set keep every bit.

    Args:
        optimizer: any; its groups say where the neurons are (`balance_params_`).

    Returns:
        The same optimiser.

    Source:
        Liu et al., "Learning by Turning", ICML 2021, figure 2.

    Examples:
        >>> import torch, nero
        >>> from nero_lab.optimizers.balanced import keep_balanced
        >>> layer = nero.balance_(torch.nn.Linear(8, 4))
        >>> optimizer = keep_balanced(torch.optim.SGD(layer.parameters(), lr=0.1))
        >>> layer(torch.ones(1, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> bool(nero.geometry.is_balanced(layer.weight, nero.NeuronLayout((4, 8))).all())
        True
    """

    def project(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
        with torch.no_grad():
            balance_params_(stepped.param_groups)

    optimizer.register_step_post_hook(project)
    return optimizer
