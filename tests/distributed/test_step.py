"""A step over DTensors: the numbers of one process, and what it communicates."""

from typing import Any

import pytest
import torch

from distributed.cases import S0, S0_OF_S0, S1, S2, R
from distributed.pool import Pool
from distributed.steps import TOLERANCES, some_steps

LINEAR = ((7, 5), (0,))
FEW_ROWS = ((3, 6), (0,))  # fewer than processes
IN_OUT = ((6, 5), (1,))
TRANSPOSED = ((5, 4, 3, 3), (1,))
GROUPED = ((8, 3, 2, 2), ((0, 4), 1))
CUT_BLOCKS = ((6, 3, 2, 2), ((0, 2), 1))  # a shard is not made of whole blocks
EXPERTS = ((4, 3, 5), (0, 1))
LAYER = ((5, 4), ())
BIAS = ((7,), (0,))

WHOLE = {
    (4,): [
        (*LINEAR, (S0,)),
        (*LINEAR, (R,)),
        (*FEW_ROWS, (S0,)),
        (*IN_OUT, (S1,)),
        (*TRANSPOSED, (S1,)),
        (*GROUPED, (S0,)),
        (*BIAS, (S0,)),
    ],
    (2, 2): [
        (*LINEAR, (R, S0)),
        (*LINEAR, (S0_OF_S0, S0)),
        (*LINEAR, (S0, S0)),
        (*TRANSPOSED, (S1, R)),
        (*GROUPED, (S0, S1)),
        (*EXPERTS, (S0, S1)),
        (*BIAS, (S0_OF_S0, S0)),
    ],
}
# By the process groups that their sums are added up in.
CUT = {
    ((4,), 1): [
        (*LINEAR, (S1,)),
        (*IN_OUT, (S0,)),
        (*TRANSPOSED, (S0,)),
        (*CUT_BLOCKS, (S0,)),
        (*EXPERTS, (S2,)),
        (*LAYER, (S0,)),
    ],
    ((2, 2), 1): [
        (*LINEAR, (S0, S1)),
        (*LINEAR, (R, S1)),
        (*TRANSPOSED, (S1, S0)),
        (*CUT_BLOCKS, (S1, S0)),
        (*EXPERTS, (S0, S2)),
    ],
    ((2, 2), 2): [
        (*LINEAR, (S1, S0)),
        (*IN_OUT, (S0_OF_S0, S0)),
        (*CUT_BLOCKS, (S0, S0)),
        (*EXPERTS, (S1, S2)),
        (*LAYER, (S0, S1)),
    ],
}

every_dtype = pytest.mark.parametrize("dtype", TOLERANCES)


@every_dtype
@pytest.mark.parametrize("mesh", WHOLE)
def test_whole_neurons_are_stepped_without_communication(
    four: Pool, mesh: Any, dtype: torch.dtype
) -> None:
    four.run(some_steps, mesh, WHOLE[mesh], dtype, 0)


@every_dtype
@pytest.mark.parametrize(("mesh", "process_groups"), CUT)
def test_cut_neurons_take_one_all_reduce_a_process_group(
    four: Pool, mesh: Any, process_groups: int, dtype: torch.dtype
) -> None:
    four.run(some_steps, mesh, CUT[mesh, process_groups], dtype, process_groups)
