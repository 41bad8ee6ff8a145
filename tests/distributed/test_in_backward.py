"""Steps in the backward pass over two processes."""

from typing import Any

import pytest

from distributed import in_backward
from distributed.pool import Pool


@pytest.mark.parametrize(
    ("options", "clip_neurons"),
    [({}, None), ({"momentum": 0.9, "radius": "initial"}, None), ({}, 0.05)],
)
def test_fsdp2_gives_the_ordinary_numbers(
    two: Pool, options: dict[str, Any], clip_neurons: float | None
) -> None:
    two.run(in_backward.same_numbers, options, clip_neurons)


@pytest.mark.parametrize("function", [in_backward.gradients_are_accumulated, in_backward.refusals])
def test_in_every_process(two: Pool, function: object) -> None:
    two.run(function)
