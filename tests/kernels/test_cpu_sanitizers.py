"""The CPU kernel under the address and undefined-behaviour sanitizers, on random tensors."""

import subprocess
from pathlib import Path

import pytest

from nero.kernels.cpu import build

FUZZER = Path(__file__).with_name("fuzz_cpu.cpp")
CASES = 10_000
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O1")


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        build.find_compiler()
    except build.CannotBuild as error:
        pytest.skip(f"{error}: there is no kernel to test")
    target = tmp_path_factory.mktemp("fuzz") / "fuzz_cpu"
    return build.build(target, SANITIZERS, program=FUZZER)


@pytest.mark.slow
def test_the_sanitizers_find_nothing_in_10_000_random_tensors(fuzzer: Path):
    done = subprocess.run([fuzzer, str(CASES), "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.startswith(f"{CASES} cases, ")
    assert done.stderr == ""
