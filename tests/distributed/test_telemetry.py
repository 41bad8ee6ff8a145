"""nero.watch over DTensors reports what it does in one process."""

from typing import Any

import pytest

from distributed import telemetry
from distributed.pool import Pool


@pytest.mark.parametrize("shape", [(7, 9), (6, 3, 4)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"max_turn": 1.0, "momentum": 0.9, "radius": "initial"},
        {"neuron_axes": (1,)},
        {"orthogonal": True, "max_turn": 0.5},
    ],
    ids=str,
)
def test_reports_are_those_of_one_process(
    four: Pool, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    four.run(telemetry.reports, shape, options)


def test_a_fully_sharded_model(two: Pool) -> None:
    two.run(telemetry.fully_sharded)
