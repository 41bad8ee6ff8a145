import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from nero.kernels.cpu.build import CannotBuild, find_compiler
from nero.kernels.cpu.library import Missing, load

# Tensor sizes in one property differ by orders of magnitude, and so do the times: no deadline. On a
# busy machine drawing examples is slow too.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", **UNTIMED)
settings.register_profile("ci", **UNTIMED, derandomize=True, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# Traced lines take twice as long, and these run lines by the thousand that other tests cover: of
# the lab, whose coverage is not measured, and whatever is drawn or run over all options.
TESTS = Path(__file__).parent
UNTRACED = [
    TESTS / name
    for name in (
        "distributed/test_meshes.py",
        "lab",
        "step/test_golden.py",
        "step/test_torch_tensors.py",
        "test_designed_starts.py",
        "test_operations.py",
        "test_optax_parity.py",
        "test_properties.py",
        "test_rule.py",
        "test_section7.py",
        "test_torch_expectations.py",
        "test_torch_optim.py",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(path) for path in UNTRACED):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True, scope="module")
def _processes_are_traced_where_tests_are(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if any(request.path.is_relative_to(path) for path in UNTRACED):
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


# xdist runs one process per core; torch's own threads would only fight over the same cores.
torch.set_num_threads(1)

try:
    find_compiler()
except CannotBuild:
    # Without a compiler there need be no kernel. With one there must be, or its tests fail.
    if isinstance(load(), Missing):
        os.environ["NERO_CPU"] = "none"  # asked for, and so without a warning
        load.cache_clear()


@pytest.fixture(autouse=True)
def _as_a_fresh_process() -> Iterator[None]:
    """Every test starts from one seed, and leaves the process as it found it."""
    torch.manual_seed(0)
    path = sys.path.copy()
    yield
    # What the lab sets for training in this process must not reach the tests of the arithmetic.
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)
    # Finding a user's module adds the working directory, here a test's own with modules of its own.
    sys.path[:] = path
