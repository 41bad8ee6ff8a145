"""DTensors with gradients and weights that are not ordinary: as in one process."""

import pytest
import torch

from distributed import edges
from distributed.pool import Pool


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [(torch.float32, [1e-30, 1e-36, 1e30]), (torch.float64, [1e-200, 1e-120, 1e200])],
)
def test_gradients_of_any_size_turn_alike(
    four: Pool, dtype: torch.dtype, sizes: list[float]
) -> None:
    four.run(edges.gradients_of_any_size, dtype, sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_that_leaves_few_digits_is_summed_up_again(four: Pool, dtype: torch.dtype) -> None:
    four.run(edges.steps_as_long_as_weights, dtype)


def test_neurons_that_cannot_be_projected_are_left_as_in_one_process(four: Pool) -> None:
    four.run(edges.neurons_that_cannot_be_projected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_a_neuron_is_finite_or_not_as_a_whole_and_counted_once(
    four: Pool, nonfinite: str, momentum: float
) -> None:
    four.run(edges.non_finite, nonfinite, momentum)


@pytest.mark.parametrize(
    "function",
    [
        edges.raising,
        edges.nothing_to_do,
        edges.other_placements,
        edges.refusals,
        edges.paths,
        edges.geometry_of_dtensors,
        edges.stochastic_rounding,
        edges.weights_that_are_loaded_later,
    ],
)
def test_in_every_process(four: Pool, function: object) -> None:
    four.run(function)
