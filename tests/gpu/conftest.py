import pytest
import torch

from gpu.on_device import DEVICE


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
