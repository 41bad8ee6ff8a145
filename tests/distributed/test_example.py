"""examples/fsdp2_gpt.py, as its users run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "fsdp2_gpt.py"
SMALL = ["--batch", "4", "--context", "16", "--width", "16", "--depth", "1", "--heads", "2"]


def run(*arguments: str, processes: int) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def loss(done: subprocess.CompletedProcess[str], step: int) -> float:
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(rf"step {step}/{step}  loss ([0-9.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def test_one_process_goes_on_from_what_two_have_saved(tmp_path: Path) -> None:
    saved = ["--resume", str(tmp_path), "--save", str(tmp_path)]
    first = run(*SMALL, "--steps", "3", "--save", str(tmp_path), processes=2)
    assert loss(first, 3) > 0
    assert "fused CPU kernel" in first.stdout or "foreach" in first.stdout
    resumed = run(*SMALL, "--steps", "6", *saved, processes=1)
    assert "resumed after step 3" in resumed.stdout
    whole = run(*SMALL, "--steps", "6", processes=1)
    assert abs(loss(resumed, 6) - loss(whole, 6)) <= 0.001  # as printed
    assert (tmp_path / "step-000006" / ".metadata").exists()


def test_what_is_asked_amiss_is_told(tmp_path: Path) -> None:
    nothing = run(*SMALL, "--resume", str(tmp_path), processes=1)
    assert nothing.returncode == 1
    assert "there is no checkpoint" in nothing.stderr
    shown = run("--help", processes=1)
    assert "torchrun --nproc-per-node 2" in shown.stdout
