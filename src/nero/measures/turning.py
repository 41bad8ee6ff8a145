"""How far balanced neurons have turned, and how far they can before the network notices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nero.geometry import split_view, turning_angle
from nero.measures.sphere import (
    Data,
    Layouts,
    accuracy_at,
    balanced_weights,
    outputs_at,
    tangent,
    turn,
)
from nero.neurons import NeuronLayout


def angles_from_initial(
    model: nn.Module, initial: Mapping[str, Tensor], layouts: Layouts
) -> dict[str, Tensor]:
    """The angle by which each neuron has turned since the start of training.

    Args:
        model: as trained.
        initial: parameter name -> its weights before training, after projection: a copy of the
            state_dict taken once the optimiser was built.
        layouts: parameter name -> its neurons.

    Returns:
        Parameter name -> angles in radians, `layout.neuron_shape`, float64.

    Examples:
        >>> import torch, nero
        >>> model = nero.balance_(torch.nn.Linear(8, 4))
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(model))
        >>> initial = {name: p.detach().clone() for name, p in model.named_parameters()}
        >>> with torch.no_grad():
        ...     _ = model.weight.neg_()
        >>> angles = nero.measures.angles_from_initial(model, initial, layouts)
        >>> angles["weight"].mean().item()  # half a turn
        3.141592653589793
    """
    parameters = dict(model.named_parameters())
    return {n: turning_angle(initial[n], parameters[n], layout) for n, layout in layouts.items()}


def distance_from_initial(
    model: nn.Module, initial: Mapping[str, Tensor], layouts: Layouts
) -> float:
    """The sum over all neurons of `1 - cos` of the angle from the initial weights.

    Half the squared distance of the balanced weights; what a von Mises-Fisher prior around the
    initial weights charges (`fisher_bounds`).

    Args:
        model: as for `angles_from_initial`.
        initial: as for `angles_from_initial`.
        layouts: as for `angles_from_initial`.

    Returns:
        From 0 to twice the number of neurons; no unit.

    Examples:
        >>> import torch, nero
        >>> model = nero.balance_(torch.nn.Linear(8, 4))
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(model))
        >>> initial = {name: -p.detach() for name, p in model.named_parameters()}
        >>> nero.measures.distance_from_initial(model, initial, layouts)
        8.0
    """
    angles = angles_from_initial(model, initial, layouts)
    # 1 - cos loses the small angles.
    return sum(2 * (theta / 2).sin().square().sum().item() for theta in angles.values())


def accuracy_when_turned(
    model: nn.Module,
    layouts: Layouts,
    data: Data,
    angle: float,
    *,
    draws: int = 10,
    seed: int = 0,
) -> float:
    """Mean accuracy when every neuron is turned by `angle` in a random direction of its own.

    `w' = cos(angle) w + sin(angle) u`, u uniform among the unit vectors orthogonal to w and to
    the ones.

    Args:
        model: balanced.
        layouts: parameter name -> its neurons; the other parameters stay.
        data: inputs and labels.
        angle: in radians.
        draws: number of draws of all directions.
        seed: of the draws; the same seed turns along the same directions at every angle.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: neurons are not balanced.

    Examples:
        A linear classifier that is turned around altogether is wrong on every example.

        >>> import math, torch, nero
        >>> model = nero.balance_(torch.nn.Linear(8, 1, bias=False))
        >>> inputs = torch.randn(100, 8)
        >>> labels = model(inputs).detach().sign().flatten()
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(model))
        >>> nero.measures.accuracy_when_turned(model, layouts, (inputs, labels), math.pi)
        0.0
    """
    weights = balanced_weights(model, layouts)
    total = 0.0
    for draw in range(draws):
        generators: dict[torch.device, torch.Generator] = {}
        turned = {}
        for name, layout in layouts.items():
            w = weights[name]
            if w.device not in generators:
                generators[w.device] = torch.Generator(w.device).manual_seed(seed + draw)
            turned[name] = turn(w, layout, angle, generators[w.device])
        total += accuracy_at(model, turned, data)
    return total / draws


def angular_flatness(
    model: nn.Module,
    layouts: Layouts,
    data: Data,
    *,
    drop: float = 0.1,
    tolerance: float = 0.01,
    halvings: int = 15,
    draws: int = 10,
    seed: int = 0,
) -> float:
    """The turn of all neurons at once at which the mean accuracy has fallen by `drop`.

    Bisection of `accuracy_when_turned` between 0 and a right angle, where the network is a random
    one. All angles are tried along the same random directions. On a balanced network no scale of
    a layer is left that could make a minimum look sharp or flat.

    Args:
        model: balanced.
        layouts: parameter name -> its neurons; the other parameters stay.
        data: the training inputs and labels.
        drop: the fall of the accuracy looked for.
        tolerance: the bisection stops when the fall is within this of `drop`.
        halvings: it stops after that many at the latest.
        draws: draws of all directions over which the accuracy is averaged.
        seed: of the draws.

    Returns:
        The angle in radians; a right angle where even that costs less.

    Raises:
        ValueError: neurons are not balanced.

    Source:
        G. K. Dziugaite et al., "In search of robust measures of generalization", 2020, for
        Gaussian noise in place of turns.

    Examples:
        >>> import torch, nero
        >>> model = nero.balance_(torch.nn.Linear(8, 1, bias=False))
        >>> inputs = torch.randn(1000, 8)
        >>> labels = model(inputs).detach().sign().flatten()
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(model))
        >>> angle = nero.measures.angular_flatness(model, layouts, (inputs, labels))
        >>> 0.2 < angle < 0.45  # a turn by pi / 10 moves a tenth of a sphere to the wrong side
        True
    """
    now = accuracy_at(model, balanced_weights(model, layouts), data)

    def fall(angle: float) -> float:
        return now - accuracy_when_turned(model, layouts, data, angle, draws=draws, seed=seed)

    low, high = 0.0, math.pi / 2
    if fall(high) < drop - tolerance:
        return high
    angle = high
    for _ in range(halvings):
        angle = (low + high) / 2
        off = fall(angle) - drop
        if abs(off) <= tolerance:
            break
        low, high = (low, angle) if off > 0 else (angle, high)
    return angle


def spherical_sharpness(
    model: nn.Module,
    layouts: Layouts,
    data: Data,
    loss: Callable[[Tensor, Tensor], Tensor],
    angle: float,
    *,
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> float:
    """The largest rise of the loss when every neuron may turn by up to `angle`.

    Found by ascent on the spheres: from a random turn of a tenth of the angle, every neuron
    takes steps of equal angle along its gradient, and is put back on the rim of its cap when it
    has left it. So it is a lower bound on the largest rise.

    Args:
        model: balanced.
        layouts: parameter name -> its neurons; the other parameters stay.
        data: inputs and labels, passed to `loss` with the outputs.
        loss: maps outputs and labels to a scalar.
        angle: in radians, above 0 and below a right angle.
        steps: of the ascent, each of 2.5 angle / steps.
        generator: of the first turn, on the model's device; torch's own where None.

    Returns:
        The rise, in units of the loss; at least 0.

    Raises:
        ValueError: neurons are not balanced, or the angle is out of range.

    Source:
        P. Foret et al., "Sharpness-aware minimization", 2021, and M. Andriushchenko et al., "A
        modern look at the relationship between sharpness and generalization", 2023, for balls
        in the place of caps.

    Examples:
        One neuron with loss w.x, x a unit vector orthogonal to w and the ones: turning towards x
        by the angle raises it by the sine.

        >>> import math, torch, nero
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[0.5, 0.5, -0.5, -0.5]]))
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(model))
        >>> data = torch.tensor([[0.5, -0.5, 0.5, -0.5]]), torch.ones(1)
        >>> rise = nero.measures.spherical_sharpness(
        ...     model, layouts, data, lambda output, _: output.mean(), 0.1
        ... )
        >>> round(rise / math.sin(0.1), 2)
        1.0
    """
    if not 0 < angle < math.pi / 2:
        raise ValueError(f"angle must be in (0, pi / 2), got {angle}")
    inputs, labels = data
    start = balanced_weights(model, layouts)
    with torch.no_grad():
        before = loss(outputs_at(model, start, inputs), labels).item()
    highest = before
    at = {n: turn(start[n], layout, angle / 10, generator) for n, layout in layouts.items()}
    for step in range(steps + 1):
        leaves = {name: w.requires_grad_() for name, w in at.items()}
        value = loss(outputs_at(model, leaves, inputs), labels)
        highest = max(highest, value.item())
        if step == steps:
            break
        gradients = torch.autograd.grad(value, list(leaves.values()))
        with torch.no_grad():
            at = {
                name: _climb(start[name], at[name], g, layouts[name], angle, 2.5 * angle / steps)
                for name, g in zip(leaves, gradients, strict=True)
            }
    return highest - before


def _climb(
    start: Tensor, at: Tensor, gradient: Tensor, layout: NeuronLayout, angle: float, step: float
) -> Tensor:
    """A turn of `at` by `step` up the gradient, and back into the cap around `start`."""
    w0, w, g = (split_view(x, layout) for x in (start, at, gradient))
    away = tangent(w, g, layout)
    moving = away.ne(0).any(dim=layout.fan_in_axes, keepdim=True)
    w = torch.where(moving, math.cos(step) * w + math.sin(step) * away, w)
    rim = math.cos(angle) * w0 + math.sin(angle) * tangent(w0, w, layout)
    left = turning_angle(w0.reshape(layout.shape), w.reshape(layout.shape), layout) > angle
    return torch.where(left, rim, w).reshape(layout.shape)
