"""NeuronLayout against lists of indices made by hand, and its errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nero import NeuronLayout
from nero.geometry import split_view
from optimizer_table import TENSORS, TensorRow, names


@pytest.mark.parametrize("row", TENSORS, ids=names(TENSORS))
def test_neurons_are_the_ones_listed_by_hand(row: TensorRow) -> None:
    layout = NeuronLayout(row.shape, row.neuron_axes)
    index = split_view(torch.arange(math.prod(row.shape)).view(row.shape), layout)
    neuron_of = torch.arange(layout.neurons).view(layout.neuron_shape).expand_as(index)
    found: dict[int, set[int]] = {}
    for entry, neuron in zip(index.flatten().tolist(), neuron_of.flatten().tolist(), strict=True):
        found.setdefault(neuron, set()).add(entry)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, row.neurons))
    assert layout.neurons == len(row.neurons)
    assert layout.fan_in == len(row.neurons[0])


@given(
    shape=st.lists(st.integers(0, 6), max_size=4).map(tuple),
    axes=st.sets(st.integers(0, 3)),
    limit=st.integers(1, 50),
)
def test_pieces_cover_every_neuron_once_and_cut_none(
    shape: tuple[int, ...], axes: set[int], limit: int
) -> None:
    layout = NeuronLayout(shape, tuple(axis for axis in axes if axis < len(shape)))
    seen = torch.zeros(layout.split_shape)
    counted = torch.zeros(layout.neuron_shape)
    for piece in layout.pieces(limit):
        seen[piece] += 1
        counted[piece] += 1
        whole_neurons = counted[piece].numel() * layout.fan_in
        assert seen[piece].numel() == whole_neurons
        # A neuron is never cut, and the cut runs along one axis: the others come whole.
        axis = len(piece) - 1
        one = seen.numel() // layout.neuron_shape[axis] if piece else seen.numel()
        assert seen[piece].numel() <= max(limit, one)
    assert torch.all(seen == 1)


def test_layouts_compare_by_shape_and_axes() -> None:
    assert NeuronLayout((3, 4)) == NeuronLayout((3, 4), [0])  # type: ignore[arg-type]
    assert len({NeuronLayout((3, 4)), NeuronLayout((3, 4), (1,))}) == 2
    assert NeuronLayout((5,), (3,)) == NeuronLayout((5,))  # axes mean nothing on a bias
