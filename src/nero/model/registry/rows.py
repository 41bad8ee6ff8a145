"""What a line of the registry says: how a parameter's entries divide into neurons, and its role."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from nero.neurons import AxisSpec

Axes = tuple[AxisSpec, ...]
AxesOf = Callable[[nn.Module, Tensor], Axes | None]
"""From a module and its parameter to the axes, or None where the module does not say."""
BlocksOf = Callable[[nn.Module, Tensor], int]
"""From a module and its parameter to the number of layers that are packed in it."""

ROLES = ("weight", "embedding", "head", "gain", "bias")

# Roles whose every entry is a neuron of its own, however many axes the tensor has.
PER_ENTRY_ROLES = ("gain", "bias")


class Row(NamedTuple):
    """One line of the registry, below the module type that it belongs to.

    Attributes:
        name: the parameter's attribute name, or an fnmatch pattern of it; "part.attribute" for a
            parameter of the module's part of that name, which goes before what the part's own type
            says.
        role: one of `ROLES`.
        neuron_axes: as `nero.NeuronLayout` takes them, or a function of the module and
            the parameter that returns them. Ignored for gains and biases.
        blocks: how many layers lie packed in the last axis of neurons, as equal pieces: q, k and v,
            gates, the groups of a convolution.
    """

    name: str
    role: str
    neuron_axes: Axes | AxesOf = (0,)
    blocks: int | BlocksOf = 1

    def axes(self, module: nn.Module, parameter: Tensor) -> Axes | None:
        """The neuron axes of one parameter; None where they are not known."""
        if self.role in PER_ENTRY_ROLES:
            return every_axis(module, parameter)
        if callable(self.neuron_axes):
            return self.neuron_axes(module, parameter)
        return self.neuron_axes

    def layers(self, module: nn.Module, parameter: Tensor) -> int:
        """How many layers one parameter holds in its last axis of neurons."""
        return self.blocks(module, parameter) if callable(self.blocks) else self.blocks


def every_axis(_module: nn.Module, parameter: Tensor) -> Axes:
    """Each entry is a neuron of its own."""
    return tuple(range(parameter.ndim))


def vectors(_module: nn.Module, parameter: Tensor) -> Axes:
    """Each vector along the last axis is a neuron: tokens and positions, (..., width)."""
    return tuple(range(parameter.ndim - 1))


def each(names: str, role: str, neuron_axes: Axes | AxesOf = (0,)) -> tuple[Row, ...]:
    """A row for each of the names, which blanks separate."""
    return tuple(Row(name, role, neuron_axes) for name in names.split())


def thirds(module: nn.Module, parameter: Tensor) -> int:
    """q, k and v under one another in a linear layer's weight."""
    if parameter.ndim == 2 and parameter.shape[0] % 3 == 0:
        return 3
    return getattr(module, "groups", 1)  # of a convolution


WEIGHT = Row("weight", "weight")
BIAS = Row("bias", "bias")
GAIN = Row("weight", "gain")
