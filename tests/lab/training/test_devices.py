"""What a process that trains has to import."""

import subprocess
import sys

import pytest

pytest.importorskip("torchmetrics")


def test_a_process_that_trains_imports_no_torchmetrics_but_could():
    program = (
        "import importlib.util, sys, nero_lab.training.loop\n"
        "assert not {'torchmetrics', 'torchvision', 'transformers'} & set(sys.modules)\n"
        "assert importlib.util.find_spec('torchmetrics')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
