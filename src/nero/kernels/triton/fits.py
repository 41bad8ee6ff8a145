"""Whether the Triton kernel takes a tensor, and how; else why not.

Importing this module does not import Triton.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nero.kernels.facts import CPU, Column, Facts
from nero.kernels.settings import Settings, split_strides, why_not_read, why_not_state
from nero.kernels.triton import plan
from nero.kernels.triton.plan import Geometry
from nero.neurons import NeuronLayout
from nero.rounding import is_stochastic
from nero.state import constraints, state_shapes

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Placed:
    """A tensor as the kernel takes it; compared by identity, and so to be kept by its maker."""

    geometry: Geometry
    w: torch.dtype
    g: torch.dtype


def placed(
    settings: Settings, w: Facts, g: Facts, state: Mapping[str, Facts], one_pass: int
) -> Placed | str:
    """A tensor as the kernel takes it, or why it cannot take it.

    Args:
        settings: of its group.
        w: the facts of the tensor.
        g: of its gradient.
        state: of its state, by name; what is missing is taken to fit.
        one_pass: the longest row to be kept in registers.
    """
    for name, x in (("it", w), ("its gradient", g)):
        if x.dtype not in DTYPES:
            return f"{name} is {x.dtype}"
    if is_stochastic(settings.rounding, w.dtype):
        return 'the Triton kernel does not round as rounding="stochastic" asks'
    if reason := why_not_read(w, g):
        return reason
    layout = NeuronLayout(tuple(w.shape), settings.neuron_axes)
    options = settings._asdict()
    del options["neuron_axes"]
    for name, shape in state_shapes(layout, w.dtype, **options).items():
        x = state.get(name)
        if x and (reason := why_not_state(name, x, shape, w.dtype)):
            return reason
    average = state.get("exp_avg", w) if settings.momentum else None
    strides = tuple(split_strides(layout, x) for x in (w, g, average) if x is not None)
    found = plan.geometry(
        layout.split_shape,
        layout.fan_in_axes,
        strides,
        any(constraints(layout, settings.center, settings.radius)),
        one_pass,
    )
    if found is None:
        return (
            f"its neurons take more than two strides (shape {layout.split_shape}, strides "
            f"{strides[0]} and of the gradient {strides[1]})"
        )
    return Placed(found, w.dtype, g.dtype)


def why_not_together(columns: Mapping[str, Column], lr: float | Tensor) -> str:
    """Why the kernel takes no tensor of these columns; empty where it may.

    Args:
        columns: by name, weights ("w"), gradients ("g") and state.
        lr: the learning rate.
    """
    if not has_triton():
        return "Triton is not installed"
    device = columns["w"].device
    for name, column in columns.items():
        if column.reason:
            return f"it, its gradient or its state {column.reason}"
        if column.device != device and not (name == "step" and column.device == CPU):
            return f"its state or gradient {name!r} is on {column.device}, not on {device}"
    if device == CPU and not _interpreted():
        return "it is on cpu, not on a CUDA device"
    if device and (reason := why_not_on(device)):
        return reason
    if isinstance(lr, Tensor) and lr.device not in (device, CPU):
        return f"the learning rate is on {lr.device}, not on {device}"
    return ""


@functools.cache
def why_not_on(device: torch.device) -> str:
    """Why the kernel does not run on a CUDA device; empty where it does."""
    if device == CPU:
        return ""
    if torch.version.hip:
        return "the Triton kernel is for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(device)
    least = f"the Triton kernel wants compute capability 8.0, and {device} has {major}.{minor}"
    return "" if major >= 8 else least


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; torch brings it along on Linux only."""
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton interprets its kernels on the CPU, which is how they are tested."""
    return os.environ.get("TRITON_INTERPRET") == "1"
