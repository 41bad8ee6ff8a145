"""`orthogonal=True` over DTensors: the numbers of one process, and what it communicates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from distributed import exchanges
from distributed.cases import S0, S0_OF_S0, S1, S2, R
from distributed.pool import Pool
from distributed.steps import TOLERANCES
from nero.distributed.exchange import owners

LINEAR = ((8, 12), (0,), 1)
UNEVEN = ((7, 9), (0,), 1)
FEW_ROWS = ((3, 6), (0,), 1)  # fewer than processes
IN_OUT = ((6, 5), (1,), 1)
CONVOLUTION = ((9, 4, 3, 3), (0,), 1)
TRANSPOSED = ((5, 4, 3, 3), (1,), 1)
GROUPED = ((8, 3, 2, 2), ((0, 4), 1), 1)
PACKED = ((12, 5), (0,), 3)
GATES = ((16, 5), (0,), 4)
EXPERTS = ((4, 3, 5), (0, 1), 1)

# By the collectives of a step: whether all have the same gradients, and an all-to-all each way;
# where neurons are sharded an all-reduce follows. All that for each process group.
LAYERS = {
    ((4,), 0): [
        (*LINEAR, (R,)),
        (*EXPERTS, (S0,)),
        (*GATES, (S0,)),
        (*GROUPED, (S0,)),
    ],
    ((4,), 3): [
        (*LINEAR, (S0,)),
        (*UNEVEN, (S0,)),
        (*FEW_ROWS, (S0,)),
        (*CONVOLUTION, (S0,)),
        (*IN_OUT, (S1,)),
        (*TRANSPOSED, (S1,)),
        (*PACKED, (S0,)),
        (*EXPERTS, (S1,)),
    ],
    ((4,), 4): [
        (*UNEVEN, (S1,)),
        (*LINEAR, (S0,)),
        (*IN_OUT, (S0,)),
        (*TRANSPOSED, (S0,)),
        (*EXPERTS, (S2,)),
        (*CONVOLUTION, (S1,)),
    ],
    ((2, 2), 3): [
        (*LINEAR, (R, S0)),
        (*UNEVEN, (R, S0)),
        (*CONVOLUTION, (R, S0)),
        (*PACKED, (R, S0)),
    ],
    ((2, 2), 3 + 2): [
        (*LINEAR, (S0_OF_S0, S0)),
        (*UNEVEN, (S0_OF_S0, S0)),
        (*UNEVEN, (S0, S1)),
        (*FEW_ROWS, (S1, S0)),
        (*CONVOLUTION, (S1, S0)),
        (*PACKED, (S0, S0)),
    ],
}


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([1.0, 4.0, 2.0, 2.0, 0.5], [0, 0, 1, 1, 1]),
        ([3.0] * 4, [0, 1, 0, 1]),
        ([5.0], [0]),
    ],
)
def test_the_next_layer_goes_where_least_is_to_be_done(
    costs: list[float], expected: list[int]
) -> None:
    assert owners(costs, 2) == expected


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("mesh", "collectives"), LAYERS)
def test_layers_have_the_numbers_of_one_process(
    four: Pool, mesh: Any, collectives: int, dtype: torch.dtype
) -> None:
    four.run(exchanges.layers, mesh, LAYERS[mesh, collectives], dtype, collectives)


@pytest.mark.parametrize(
    ("dtype", "momentum", "there", "back"),
    [
        (torch.float32, 0.0, 4, 4),
        (torch.float32, 0.9, 4, 4),
        (torch.bfloat16, 0.0, 2, 2),
        (torch.bfloat16, 0.9, 4, 2),  # the running average is float32
    ],
)
def test_shards_travel_once_each_way(
    four: Pool, dtype: torch.dtype, momentum: float, there: int, back: int
) -> None:
    """Of four layers each process keeps its rows of one, and gives 3 times 2 x 16 entries away."""
    entries = 3 * 2 * 16
    expected = [
        ("allreduce_", 4 * 4),
        ("all_to_all", entries * there),
        ("all_to_all", entries * back),
    ]
    assert four.run(exchanges.traffic, dtype, momentum) == [expected] * 4


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_gradients_that_are_not_finite(four: Pool, nonfinite: str, momentum: float) -> None:
    four.run(exchanges.non_finite, nonfinite, momentum)


@pytest.mark.parametrize(
    "function",
    [
        exchanges.gradients_of_some_processes,
        exchanges.low_precision,
        exchanges.a_group_of_its_own,
        exchanges.refusals,
        exchanges.path,
    ],
)
def test_in_every_process(four: Pool, function: Callable[[], None]) -> None:
    four.run(function)


TRAINED = [
    ("two", "FSDP2", "mlp", 3),
    ("two", "TP", "transformer", 4),
    ("four", "FSDP2 x TP", "transformer", 2 * 3 + 1),
    ("four", "HSDP", "convnet", 4),
]


@pytest.mark.parametrize(("pool", "way", "model", "count"), TRAINED)
def test_a_mesh_ends_at_the_weights_of_one_process(
    request: pytest.FixtureRequest, pool: str, way: str, model: str, count: int
) -> None:
    for difference, counts, moved in request.getfixturevalue(pool).run(
        exchanges.trained, model, way, exchanges.STEPS
    ):
        assert difference < 1e-10  # gradients of parts of a batch, and products in other orders
        assert counts == [count]
        assert moved > 0.1
