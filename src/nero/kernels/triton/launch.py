"""The fused CUDA path: all the tensors of a group in one launch of a Triton kernel.

A step reads the gradient and the weights once and writes the weights once; rows longer than
`cuda_plan.ONE_PASS`, and long neurons that do not lie in rows, are read twice. Each launch takes
all tensors of one device and one pair of dtypes (of the weights and of the gradients): it is given
a table of their addresses, which is new at every step, and tables of where their neurons lie and
of which program updates which, which stay on the device for as long as the shapes stay the same.
No table holds on to a tensor. Nothing waits for the device: step counts and a learning rate that
are on it are read there.

The numbers are those of `nero.rule` up to the order of sums. The kernel has been run in Triton's
interpreter on CPU and compiled for compute capability 8.0 and 9.0; it has neither run nor been
timed on a GPU.

Importing this module does not import Triton.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from array import array
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.kernels.triton import plan as cuda_plan
from nero.kernels.triton.plan import Geometry
from nero.rounding import is_stochastic
from nero.state import Hyper, TensorStep, constraints

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Two programs of 256 threads then share a multiprocessor, and next to nothing is spilled.
LAUNCH = {"num_warps": 8, "maxnreg": 128}


class Tables(NamedTuple):
    """What one launch needs that depends on shapes alone, on the device."""

    geometry: Tensor  # int64, (tensors, GEOMETRY)
    owner: Tensor  # int32, the tensor of each program
    neurons: int
    kinds: int  # bit k: there are tiles of kind k


# What the copies to the device read and wrote while a CUDA graph was captured: it is replayed from
# these addresses, for as long as the process lives.
_captured: list[tuple[Tensor, Tensor]] = []


def fits(step: TensorStep, hyper: Hyper) -> str | None:
    """Why a tensor cannot take this path, in words; None where it can.

    Costs a few microseconds and reads nothing from the device. It depends on dtypes, devices and
    strides (those of the gradient included), not on values.
    """
    device = step.w.device
    if not _has_triton():
        return "Triton is not installed"
    if device.type != "cuda" and not _interpreted():
        return f"it is on {device}, not on a CUDA device"
    for name, x, dtypes in _operands(step):
        if type(x) not in (Tensor, torch.nn.Parameter):
            return f"{name} is a {type(x).__name__}, not a plain tensor"
        if x.dtype not in dtypes:
            return f"{name} is {x.dtype}"
        if x.device != device and not (name == "its step count" and x.device.type == "cpu"):
            return f"{name} is on {x.device}, not on {device}"
    if is_stochastic(hyper.rounding, step.w.dtype):
        return 'the Triton kernel does not round as rounding="stochastic" asks'
    if isinstance(hyper.lr, Tensor) and hyper.lr.device not in (device, torch.device("cpu")):
        return f"the learning rate is on {hyper.lr.device}, not on {device}"
    if not all(x.is_contiguous() for name, x in step.state.items() if name in ("rms", "radius")):
        return "its state is not contiguous"
    if _geometry(step, hyper) is None:
        return (
            f"its neurons take more than two strides (shape {step.layout.split_shape}, strides "
            f"{step.w.stride()} and of the gradient {step.g.stride()})"
        )
    return None


def _fused_cuda_nero(steps: list[TensorStep], hyper: Hyper) -> list[Tensor]:
    """Update tensors that all fit (`fits`); arguments and result as `_single_tensor_nero`."""
    launches: dict[Any, list[TensorStep]] = {}
    for step in steps:
        if step.w.numel():
            launches.setdefault((step.w.device, step.w.dtype, step.g.dtype), []).append(step)
    return [_launch(together, hyper) for together in launches.values()]


def _launch(steps: list[TensorStep], hyper: Hyper) -> Tensor:
    from nero.kernels.triton import rows as cuda_rows

    kernel: Any = cuda_rows.nero_kernel
    w, device = steps[0].w, steps[0].w.device
    geometries = [_geometry(step, hyper) for step in steps]
    placed = tuple(shape for shape in geometries if shape is not None)
    if len(placed) != len(steps):
        raise ValueError("a tensor was sent to the fused CUDA path that `fits` turns away")
    tables = _tables(placed, device)
    finite = torch.empty(tables.neurons, dtype=torch.bool, device=device)
    lr_tensor = isinstance(hyper.lr, Tensor) and hyper.lr.device == device
    addresses = _addresses(steps, placed, hyper, lr_tensor)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(len(tables.owner),)](
            addresses,
            tables.geometry,
            tables.owner,
            finite,
            hyper.lr if lr_tensor else addresses,
            **kernel_options(w.dtype, steps[0].g.dtype, hyper, lr_tensor, tables.kinds),
            **LAUNCH,
        )
    for step in steps:  # autograd has to know that what it saved for a backward pass is gone
        torch.autograd.graph.increment_version(step.w)
    return finite


def kernel_options(
    w: torch.dtype, g: torch.dtype, hyper: Hyper, lr_tensor: bool, kinds: int
) -> dict[str, Any]:
    """The kernel's compile-time arguments."""
    import triton.language as tl

    radius = hyper.radius if hyper.radius in (None, "initial") else "number"
    return {
        "W": getattr(tl, str(w).removeprefix("torch.")),
        "G": getattr(tl, str(g).removeprefix("torch.")),
        "CENTER": hyper.center,
        "RADIUS": radius,
        "MOMENTUM": hyper.momentum > 0,
        "CAP": hyper.max_turn is not None,
        "PROPAGATE": hyper.nonfinite == "propagate",
        "LR_TENSOR": lr_tensor,
        "KINDS": kinds,
    }


def _addresses(
    steps: list[TensorStep], placed: tuple[Geometry, ...], hyper: Hyper, lr_tensor: bool
) -> Tensor:
    """The table that is new at each step: numbers, and for each tensor where its things are."""
    numbers = {
        "lr": 0.0 if lr_tensor else float(hyper.lr),
        "root_beta": hyper.beta**0.5,
        "root_rest": (1 - hyper.beta) ** 0.5,
        "log_beta": _log(hyper.beta),
        "momentum": hyper.momentum,
        "log_momentum": _log(hyper.momentum),
        "least_rms": 0.0 if hyper.max_turn is None else 1 / hyper.max_turn,
        "sign": -1.0 if hyper.maximize else 1.0,
        "radius": hyper.radius if isinstance(hyper.radius, (int, float)) else 1.0,
    }
    on_device = [_counts_on_device(step, hyper) for step in steps]
    times = [0.0 if on_device[i] else step.state["step"].item() for i, step in enumerate(steps)]
    bits = array("q", array("d", [numbers[name] for name in cuda_plan.NUMBERS] + times).tobytes())
    values = bits[: len(numbers)]
    for i, step in enumerate(steps):
        state = step.state
        own_radius = placed[i].constrained and hyper.radius == "initial"
        values.extend(
            [
                step.w.data_ptr(),
                step.g.data_ptr(),
                0 if step.m is None else step.m.data_ptr(),
                state["rms"].data_ptr(),
                state["radius"].data_ptr() if own_radius else 0,
                state["scale"].data_ptr(),
                state["step"].data_ptr() if on_device[i] else 0,
                bits[len(numbers) + i],
            ]
        )
    return _to_device(torch.frombuffer(values, dtype=torch.int64), steps[0].w.device)


def _counts_on_device(step: TensorStep, hyper: Hyper) -> bool:
    """Whether the step count is the kernel's to read; a count on the CPU is read here."""
    device = step.state["step"].device
    return device.type != "cpu" or (hyper.capturable and device == step.w.device)


def _to_device(x: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; nothing waits for it."""
    if device.type != "cuda":
        return x.clone()
    pinned = x.pin_memory()
    there = pinned.to(device, non_blocking=True)
    if torch.cuda.is_current_stream_capturing():
        _captured.append((pinned, there))
    return there


@functools.lru_cache(maxsize=64)
def _tables(geometries: tuple[Geometry, ...], device: torch.device) -> Tables:
    rows, programs = cuda_plan.table(geometries)
    owner = torch.arange(len(rows), dtype=torch.int32).repeat_interleave(torch.tensor(programs))
    return Tables(
        torch.tensor(rows, dtype=torch.int64).to(device),
        owner.to(device),
        sum(shape.neurons for shape in geometries),
        sum(1 << kind for kind in {shape.kind for shape in geometries}),
    )


def _geometry(step: TensorStep, hyper: Hyper) -> Geometry | None:
    layout = step.layout
    operands = (step.w, step.g) if step.m is None else (step.w, step.g, step.m)
    return cuda_plan.geometry(
        layout.split_shape,
        layout.fan_in_axes,
        tuple(x.stride() for x in operands),
        any(constraints(layout, hyper.center, hyper.radius)),
        cuda_plan.ONE_PASS,
    )


def _operands(step: TensorStep) -> Iterator[tuple[str, Tensor, tuple[torch.dtype, ...]]]:
    """What the kernel reads and writes: name, tensor, the dtypes that it may have."""
    yield "it", step.w, DTYPES
    yield "its gradient", step.g, DTYPES
    state = {"its running average": step.m, "its step count": step.state.get("step")}
    state |= {f"its state {name!r}": step.state.get(name) for name in ("rms", "scale", "radius")}
    for name, x in state.items():
        if x is not None:
            yield name, x, (torch.float32,)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton interprets its kernels on the CPU, which is how they are tested."""
    return os.environ.get("TRITON_INTERPRET") == "1"
