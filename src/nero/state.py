"""What every path of a step is given: hyperparameters of a group, views and state of a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.geometry import split_view, working_dtype
from nero.neurons import NeuronLayout
from nero.rounding import Keys, Place, is_stochastic, noise_bits, noise_keys, round_stochastically
from nero.rule import one_minus_power

# State that is kept in the dtype that a parameter is computed in, on its device.
FOLLOWING = ("rms", "scale", "radius", "exp_avg")


class Hyper(NamedTuple):
    """The hyperparameters of one group."""

    lr: float | Tensor
    beta: float
    momentum: float
    center: bool
    radius: str | float | None
    nonfinite: str
    maximize: bool
    capturable: bool
    rounding: str = "nearest"
    max_turn: float | None = None
    relative: bool = False


class TensorStep(NamedTuple):
    """One tensor to be updated; `w`, `g` and `m` are views in `layout.split_shape`.

    `place` is where that view lies in the whole parameter, of which it may be a shard.
    """

    w: Tensor
    g: Tensor
    m: Tensor | None
    state: dict[str, Any]
    layout: NeuronLayout
    place: Place

    def time(self, capturable: bool) -> float | Tensor:
        """This tensor's own step count: a number, or the tensor itself if it must not be read."""
        step = self.state["step"]
        if capturable or torch.compiler.is_compiling():
            return step.to(self.state["rms"].dtype)
        return step.item()

    def noise_keys(self, hyper: Hyper) -> Keys | None:
        """The keys of this step's noise, or None where rounding is to nearest."""
        if not is_stochastic(hyper.rounding, self.w.dtype):
            return None
        t, seed = self.time(hyper.capturable), self.state["seed"]
        return noise_keys(seed if isinstance(t, Tensor) else seed.item(), t)


def in_working_dtype(p: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What of a parameter's state has to be of another dtype or device now, converted.

    A model may be converted or moved in the middle of a run, which leaves the optimizer's state as
    it was.
    """
    dtype = working_dtype(p.dtype)
    found = {name: state.get(name) for name in FOLLOWING}
    return {
        name: x.to(p.device, dtype)
        for name, x in found.items()
        if isinstance(x, Tensor) and (x.dtype != dtype or x.device != p.device)
    }


class StateError(RuntimeError):
    """State of other shapes than a parameter and its layout want.

    Attributes:
        p: the parameter, or the shard of it that was to be stepped.
    """

    def __init__(self, p: Tensor, message: str) -> None:
        super().__init__(message)
        self.p = p


def state_shapes(
    layout: NeuronLayout,
    dtype: torch.dtype,
    *,
    center: bool,
    radius: str | float | None,
    momentum: bool,
    rounding: str,
) -> dict[str, tuple[int, ...]]:
    """The state that a step of a tensor needs, and its shapes.

    Args:
        layout: the tensor's layout.
        dtype: the tensor's.
        center: as its group has it.
        radius: as its group has it.
        momentum: whether its group has any.
        rounding: as its group has it.
    """
    shapes = {"step": (), "rms": layout.neuron_shape, "scale": ()}
    if momentum:
        shapes["exp_avg"] = layout.shape
    if radius == "initial" and constraints(layout, center, radius)[1]:
        shapes["radius"] = layout.neuron_shape
    if is_stochastic(rounding, dtype):
        shapes["seed"] = ()
    return shapes


def check_state(p: Tensor, state: dict[str, Any], layout: NeuronLayout, hyper: Hyper) -> None:
    """See that the state of a parameter is there and of the shapes that its layout wants.

    Args:
        p: the parameter, or a shard of it; `state` and `layout` are of the same shape.
        state: its state.
        layout: its layout.
        hyper: the hyperparameters of its group, which say what state a step needs.

    Raises:
        StateError: it is not.
    """
    shapes = state_shapes(
        layout,
        p.dtype,
        center=hyper.center,
        radius=hyper.radius,
        momentum=hyper.momentum > 0,
        rounding=hyper.rounding,
    )
    for name, shape in shapes.items():
        x = state.get(name)
        if not isinstance(x, Tensor) or x.shape != shape:
            found = "none" if x is None else f"one of type {type(x).__name__}"
            if isinstance(x, Tensor):
                found = f"one of shape {tuple(x.shape)}"
            raise StateError(
                p,
                f"the step needs a state {name!r} of shape {tuple(shape)} and found {found}; the "
                "shape of a parameter and its neuron_axes cannot change in the middle of a run: "
                "build a new optimizer for that",
            )


def tensor_step(
    p: Tensor,
    g: Tensor,
    state: dict[str, Any],
    layout: NeuronLayout,
    hyper: Hyper,
    place: Place | None = None,
) -> TensorStep:
    """A parameter and its gradient as the paths take them.

    Args:
        p: the parameter, or a shard of it; `g`, `state` and `layout` are of the same shape.
        g: its gradient.
        state: its state.
        layout: its layout.
        hyper: the hyperparameters of its group.
        place: for a shard, where it lies in the whole parameter, over the axes of
            `layout.split_shape`; None if `p` is all of it.

    Raises:
        StateError: state of other shapes.
    """
    check_state(p, state, layout, hyper)
    average = state["exp_avg"] if hyper.momentum > 0 else None
    m = None if average is None else split_view(average, layout)
    place = Place.of(layout.split_shape) if place is None else place
    return TensorStep(split_view(p, layout), split_view(g, layout), m, state, layout, place)


def rounded(x: Tensor, dtype: torch.dtype, place: Place, keys: Keys | None) -> Tensor:
    """New weights, with a leading axis for a stack, as they are to be stored in `dtype`.

    Args:
        x: the weights in their working dtype.
        dtype: that of the parameter.
        place: where a tensor of the stack lies in its parameter.
        keys: of its noise; None rounds to nearest, which copying does by itself.
    """
    if keys is None:
        return x
    shape = tuple(x.shape[x.ndim - len(place.strides) :])
    return round_stochastically(x, dtype, noise_bits(shape, place, keys, x.device))


def rule_arguments(
    layout: NeuronLayout, state: dict[str, Any], t: float | Tensor, hyper: Hyper
) -> dict[str, Any]:
    """The keyword arguments of `nero.rule.nero_` for tensors of one layout.

    Args:
        layout: their layout.
        state: their `scale` and, under radius="initial", `radius`.
        t: their step count.
        hyper: the hyperparameters of their group.

    Returns:
        The arguments; tensors among them broadcast against one number per neuron.
    """
    center, normalize = constraints(layout, hyper.center, hyper.radius)
    if not normalize:
        r, radius = state["scale"], None
    elif hyper.radius == "initial":
        radius = state["radius"]
        r = torch.where(radius > 0, radius, state["scale"])
    else:
        r = radius = 1.0 if hyper.radius == "unit" else hyper.radius
    return {
        "lr": hyper.lr,
        "beta": hyper.beta,
        "debias": one_minus_power(hyper.beta, t),
        "momentum": hyper.momentum,
        "debias_m": one_minus_power(hyper.momentum, t),
        "r": r,
        "center": center,
        "radius": radius,
        "max_turn": hyper.max_turn,
        "relative": hyper.relative,
        "maximize": hyper.maximize,
        "propagate": hyper.nonfinite == "propagate",
    }


def constraints(
    layout: NeuronLayout, center: bool, radius: str | float | None
) -> tuple[bool, bool]:
    """Which constraints a tensor obeys: (centred, normalised).

    Those asked for, or none where the fan-in is too small for a neuron to turn under them.
    """
    normalize = radius is not None
    if layout.can_hold(center=center, normalize=normalize):
        return center, normalize
    return False, False
