"""Running the scripts beside this file, and what `cuda_cases.py` is held to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nero
from optimizer_table import FLOAT32_TOLERANCE

TESTS = Path(__file__).parent

# Weights in low precision may round to the other neighbour where float32 differs in its last bit.
TOLERANCES = {"torch.bfloat16": 2**-8, "torch.float16": 2**-11}


def run(
    tmp_path: Path, script: str, *arguments: str, traced: bool = False, **environment: str
) -> dict[str, Any]:
    """The JSON that a script beside this file prints; Triton keeps nothing from run to run."""
    paths = [str(TESTS), str(TESTS.parent), str(Path(nero.__file__).parents[1])]
    environment = {
        **{name: x for name, x in os.environ.items() if not name.startswith(left_out(traced))},
        **{"PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(tmp_path)},
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(TESTS / script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def left_out(traced: bool) -> tuple[str, ...]:
    """What the names of variables that such a process is not given start with."""
    return ("TRITON_",) if traced else ("TRITON_", "COVERAGE_")


def check_cases(cases: dict[str, Any]) -> None:
    """Hold what `cuda_cases.py` printed to its limits."""
    for name, figures in cases.items():
        tolerance = TOLERANCES.get(name.split(",")[0], FLOAT32_TOLERANCE)
        assert figures["w"] <= tolerance, (name, figures)
        assert figures["rms"] <= FLOAT32_TOLERANCE, (name, figures)
        assert figures["m"] <= FLOAT32_TOLERANCE, (name, figures)
        assert figures["same counts"], (name, figures)
        assert figures.get("kept", True), (name, figures)
        assert figures.get("launches", 3) == 3, (name, figures)
