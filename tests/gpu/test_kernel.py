"""The Triton kernel where it belongs: what `kernels/test_triton.py` runs in the interpreter."""

from pathlib import Path

import pytest

from gpu.on_device import only_on_cuda
from kernels.triton_scripts import check_cases, run

GROUPS = ("constraints", "options", "dtypes", "layouts", "edges", "still", "launches")


@only_on_cuda
@pytest.mark.parametrize("group", GROUPS)
def test_the_kernel_computes_what_the_rule_computes(tmp_path: Path, group: str) -> None:
    cases = run(tmp_path, "cuda_cases.py", group)
    assert cases
    check_cases(cases)
