"""What a kernel is given of a tensor besides its numbers, whichever kernel it is."""

from __future__ import annotations

from typing import NamedTuple

import torch

from nero.geometry import working_dtype
from nero.kernels.facts import Facts
from nero.neurons import AxisSpec, NeuronLayout, blocks_by_axis
from nero.state import Hyper

# State that a kernel may be given, as kernel.h of the CPU's has it.
STATE = ("exp_avg", "rms", "step", "scale", "radius", "seed")


class Settings(NamedTuple):
    """What the place of a tensor in a kernel depends on besides the tensors; hashable."""

    center: bool
    radius: str | float | None
    momentum: bool
    rounding: str
    neuron_axes: tuple[AxisSpec, ...]

    @classmethod
    def of(cls, hyper: Hyper, neuron_axes: tuple[AxisSpec, ...]) -> Settings:
        """The settings of a group."""
        momentum = hyper.momentum > 0
        return cls(hyper.center, hyper.radius, momentum, hyper.rounding, neuron_axes)

    def state(self) -> tuple[str, ...]:
        """The state that the kernel is given."""
        left_out = {
            *(() if self.momentum else ("exp_avg",)),
            *(() if self.radius == "initial" else ("radius",)),
            *(() if self.rounding == "stochastic" else ("seed",)),
        }
        return tuple(name for name in STATE if name not in left_out)


def why_not_read(w: Facts, g: Facts) -> str:
    """Why no kernel reads a tensor and its gradient as they lie; empty where one may."""
    if g.shape != w.shape:
        return f"its gradient is of shape {tuple(g.shape)}"
    if w.negative or g.negative:
        return "it or its gradient is negated by a mark, not in memory"
    if not (w.lies_in_storage and g.lies_in_storage):
        return "its storage or its gradient's was freed or resized"
    if any(size > 1 and stride == 0 for size, stride in zip(w.shape, w.strides, strict=True)):
        return "its entries share memory"
    return ""


def why_not_state(name: str, x: Facts, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """Why no kernel takes a state; empty where one may.

    Args:
        name: of the state.
        x: its facts.
        shape: the shape that it has to have.
        dtype: that of its parameter.
    """
    wanted = {"step": torch.float32, "seed": torch.int64}.get(name, working_dtype(dtype))
    if x.dtype != wanted:
        return f"its state {name!r} is {x.dtype}"
    if x.negative or x.shape != shape or not x.lies_in_storage:
        return f"its state {name!r} does not lie in memory in shape {tuple(shape)}"
    if name != "exp_avg" and not x.is_contiguous:
        return f"its state {name!r} is not contiguous"
    return ""


def split_strides(layout: NeuronLayout, x: Facts | None) -> tuple[int, ...]:
    """The strides of a tensor viewed in `layout.split_shape`."""
    if x is None:
        return (0,) * len(layout.split_shape)
    blocks = blocks_by_axis(layout.neuron_axes, layout.shape)
    found: list[int] = []
    for axis, (size, stride) in enumerate(zip(x.shape, x.strides, strict=True)):
        count = blocks.get(axis)
        found += [stride] if count in (None, size) else [size // count * stride, stride]
    return tuple(found)
