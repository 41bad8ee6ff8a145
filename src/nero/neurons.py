"""Which entries of a weight tensor belong to one neuron: integers only, no framework.

A neuron is one output unit of a layer and its weights are a vector of length fan-in (Liu et al.,
ICML 2021, section 3). Where those entries lie depends on the layer: a linear layer keeps a neuron
in a row, a transposed convolution in a slice of axis 1, a stack of experts in one row of one
expert. A `NeuronLayout` says it once, as axes, so that no step ever reshapes by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

AxisSpec = int | tuple[int, int]
"""An axis whose index counts neurons, or `(axis, blocks)`: the axis is cut into that many equal
consecutive blocks, the block's index counts neurons and the place inside a block is fan-in."""


@dataclass(frozen=True)
class NeuronLayout:
    """The axes of a tensor that count neurons; all its other axes are fan-in.

    Args:
        shape: shape of the tensor.
        neuron_axes: the axes that count neurons. An entry is an axis (negative ones count from the
            end) or a pair `(axis, blocks)`, for an axis of which only the block counts neurons.
            Tensors with one axis or none have no fan-in: each entry is a neuron of its own,
            whatever is given here.

    Attributes:
        split_shape: `shape` with each `(axis, blocks)` axis split in two. A view to this shape
            exists for any strides; `fan_in_axes` and `neuron_shape` refer to it.
        fan_in_axes: the axes of `split_shape` that are fan-in.
        neuron_shape: shape of one number per neuron, with size 1 on the fan-in axes, so that it
            broadcasts against the split view.
        neurons: number of neurons.
        fan_in: number of entries in one neuron.

    Raises:
        ValueError: an axis is out of range or named twice, or the blocks do not divide its size.
        TypeError: an entry is neither an integer nor a pair of integers.

    Examples:
        >>> from nero import NeuronLayout
        >>> linear = NeuronLayout((10, 64))
        >>> linear.neurons, linear.fan_in, linear.neuron_shape
        (10, 64, (10, 1))

        A transposed convolution, in-channels 8, out-channels 6, two groups: its weight is
        `(in, out / groups, height, width)`, and group g owns the g-th block of axis 0.

        >>> grouped = NeuronLayout((8, 3, 5, 5), neuron_axes=((0, 2), 1))
        >>> grouped.neurons, grouped.fan_in, grouped.split_shape
        (6, 100, (2, 4, 3, 5, 5))
    """

    shape: tuple[int, ...]
    neuron_axes: tuple[AxisSpec, ...] = (0,)
    split_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)
    fan_in_axes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    neuron_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)
    neurons: int = field(init=False, repr=False, compare=False)
    fan_in: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        neuron_axes = normalize_axes(self.neuron_axes)
        if len(shape) < 2:
            neuron_axes = tuple(range(len(shape)))
        blocks = blocks_by_axis(neuron_axes, shape)
        split_shape: list[int] = []
        fan_in_axes: list[int] = []
        for axis, size in enumerate(shape):
            count = blocks.get(axis)
            if count is None or count != size:
                fan_in_axes.append(len(split_shape) + (count is not None))
            split_shape += [size] if count in (None, size) else [count, size // count]
        neuron_shape = [1 if axis in fan_in_axes else size for axis, size in enumerate(split_shape)]
        for name, value in {
            "shape": shape,
            "neuron_axes": neuron_axes,
            "split_shape": tuple(split_shape),
            "fan_in_axes": tuple(fan_in_axes),
            "neuron_shape": tuple(neuron_shape),
            "neurons": math.prod(neuron_shape),
            "fan_in": math.prod([split_shape[axis] for axis in fan_in_axes]),
        }.items():
            object.__setattr__(self, name, value)

    def can_hold(self, *, center: bool, normalize: bool) -> bool:
        """Whether a neuron can obey these constraints and still turn.

        Each constraint takes one dimension from the fan-in, and a neuron with none left could
        not move: a centred, normalised neuron of two weights is always plus or minus
        `(1, -1) / sqrt(2)`.

        Examples:
            >>> from nero import NeuronLayout
            >>> NeuronLayout((64, 2)).can_hold(center=True, normalize=True)
            False
            >>> NeuronLayout((64, 3)).can_hold(center=True, normalize=True)
            True
        """
        return self.fan_in > int(center) + int(normalize)

    def pieces(self, max_entries: int) -> Iterator[tuple[slice, ...]]:
        """Cut the tensor between neurons into pieces of about `max_entries` entries at the most.

        Neurons are independent, so an update may take them a few at a time. The cut runs along
        the axis that counts the most neurons; a single neuron is never cut.

        Yields:
            An index for the split view and for anything of `neuron_shape`; nothing for a tensor
            without entries.

        Examples:
            >>> from nero import NeuronLayout
            >>> list(NeuronLayout((10, 64)).pieces(300))
            [(slice(0, 4, None),), (slice(4, 8, None),), (slice(8, 12, None),)]
        """
        entries = math.prod(self.split_shape)
        if entries == 0:
            return
        most = max(self.neuron_shape, default=1)
        if entries <= max_entries or most == 1:
            yield ()
            return
        axis = self.neuron_shape.index(most)
        length = max(1, max_entries * most // entries)
        for start in range(0, most, length):
            yield (slice(None),) * axis + (slice(start, start + length),)


def normalize_axes(neuron_axes: Iterable[object]) -> tuple[AxisSpec, ...]:
    """`neuron_axes` as a tuple of integers and pairs of integers, as checkpoints carry it.

    Raises:
        TypeError: it is not a sequence of integers and pairs of integers.

    Examples:
        >>> from nero.neurons import normalize_axes
        >>> normalize_axes([[0, 2], 1])
        ((0, 2), 1)
    """
    if isinstance(neuron_axes, (str, bytes)) or not isinstance(neuron_axes, Iterable):
        raise TypeError(f"neuron_axes must be a sequence of axes such as (0,), got {neuron_axes!r}")
    return tuple(_axis(entry) for entry in neuron_axes)


def _axis(entry: object) -> AxisSpec:
    match entry:
        case bool():  # an int to Python, but no axis
            pass
        case int():
            return entry
        case [int() as axis, int() as blocks]:
            return axis, blocks
    raise TypeError(
        "an entry of neuron_axes must be an axis or a pair (axis, blocks) of integers, "
        f"got {entry!r}"
    )


def blocks_by_axis(neuron_axes: tuple[AxisSpec, ...], shape: tuple[int, ...]) -> dict[int, int]:
    """Each neuron axis, counted from the front, and into how many blocks it is cut.

    An axis that counts neurons entry by entry has as many blocks as entries.

    Raises:
        ValueError: an axis that the shape does not have or that is named twice, or blocks that do
            not divide it.

    Examples:
        >>> from nero.neurons import blocks_by_axis
        >>> blocks_by_axis((0, (-1, 2)), (3, 8))
        {0: 3, 1: 2}
    """
    rank = len(shape)
    blocks: dict[int, int] = {}
    for entry in neuron_axes:
        named, count = entry if isinstance(entry, tuple) else (entry, None)
        if not -rank <= named < rank:
            raise ValueError(
                f"neuron_axes {neuron_axes} names axis {named}, but shape {shape} has axes "
                f"{-rank} to {rank - 1}"
            )
        axis = named % rank
        if axis in blocks:
            raise ValueError(f"neuron_axes {neuron_axes} names axis {axis} of shape {shape} twice")
        if count is not None and (count < 1 or shape[axis] % count):
            raise ValueError(
                f"neuron_axes {neuron_axes} cuts axis {axis} of shape {shape} into {count} "
                f"blocks, which do not divide its size {shape[axis]}"
            )
        blocks[axis] = shape[axis] if count is None else count
    return blocks
