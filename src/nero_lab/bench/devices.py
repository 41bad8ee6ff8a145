"""What differs between a benchmark on the CPU and one on a GPU."""

import functools
import gc
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from nero_lab.bench import memory, workloads
from nero_lab.bench.clocks import Clock, Gpu, Plain, Queued, Step
from nero_lab.bench.contestants import CONTESTANTS, CUDA_CONTESTANTS, Contestant
from nero_lab.bench.workloads import Workload

Peak = Callable[[Step, int], tuple[int | None, int | None]]
"""a step, how often to repeat it -> the bytes that torch allocates, the rise of what is resident"""


@dataclass(frozen=True)
class Device:
    """Where steps are measured, and how."""

    key: str
    """what the command line calls it"""
    torch_device: str
    contestants: Mapping[str, Contestant]
    full: Mapping[str, Callable[[], Workload]]
    quick: Mapping[str, Callable[[], Workload]]
    rounds: int
    seconds: float
    """what one contestant may take on one workload before it gets fewer rounds"""
    training: bool
    """whether whole training steps are measured too"""
    packages: tuple[str, ...]
    """whose versions the page names"""
    clock: Callable[[], Clock]
    """makes one for a contestant"""
    peak: Peak
    free: Callable[[], int]
    """bytes that could be allocated"""

    @property
    def parts(self) -> tuple[str, ...]:
        """Return what `--only` may choose from."""
        return (*self.full, "training") if self.training else tuple(self.full)


def _cpu_peak(step: Step, repeats: int) -> tuple[int | None, int | None]:
    return memory.torch_peak(step), memory.resident_rise(step, repeats)


def _cuda_peak(step: Step, repeats: int) -> tuple[int | None, int | None]:
    del repeats  # the allocator counts to the byte
    return memory.cuda_peak(step), None


def _cuda_free() -> int:
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


CPU = Device(
    key="cpu",
    torch_device="cpu",
    contestants=CONTESTANTS,
    full=workloads.FULL,
    quick=workloads.QUICK,
    rounds=45,
    seconds=5.0,
    training=True,
    packages=("torch", "torchvision", "torchao", "pytorch-optimizer", "nero-optim"),
    clock=Plain,
    peak=_cpu_peak,
    free=lambda: psutil.virtual_memory().available,
)
_gpu = functools.cache(Gpu)
CUDA = Device(
    key="cuda",
    torch_device="cuda",
    contestants=CUDA_CONTESTANTS,
    full=workloads.CUDA_FULL,
    quick=workloads.CUDA_QUICK,
    rounds=50,
    seconds=0.8,
    training=False,
    packages=("torch", "triton"),
    clock=lambda: Queued(_gpu()),
    peak=_cuda_peak,
    free=_cuda_free,
)
DEVICES: Mapping[str, Device] = {each.key: each for each in (CPU, CUDA)}


def why_not(device: Device) -> str:
    """Return why nothing can be measured there, and what to do; empty where it can."""
    if device.torch_device != "cuda" or torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is built without CUDA: install a build with it"
    else:
        missing = "torch finds no NVIDIA GPU (torch.cuda.is_available()): look at `nvidia-smi`"
    return f"there is no CUDA device: {missing}, or leave out --device"


def gpu_facts() -> dict[str, Any]:
    """Return what the figures of a GPU depend on."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "memory": found.total_memory,
        "cache": getattr(found, "L2_cache_size", None),
        "multiprocessors": found.multi_processor_count,
        "runtime": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return "unknown"
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.partition("\n")[0].strip() or "unknown"
