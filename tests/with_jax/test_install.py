"""Where JAX is installed and torch is not."""

import importlib.util
import subprocess
import sys

import pytest

import nero


def test_import_needs_no_torch() -> None:
    program = "import sys; import nero.optax; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_what_needs_torch_says_so() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"nero\.Nero needs PyTorch: pip install"):
        _ = nero.Nero


def test_integers_need_no_framework() -> None:
    assert nero.NeuronLayout((4, 3)).fan_in == 3
