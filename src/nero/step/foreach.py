"""Many small tensors at once: tensors of one shape are stacked and stepped by rule.py together.

A neuron does not know its neighbours, so a stack of layers is one layer with more neurons. A deep
network of small layers then costs a few launches instead of a few per layer. The price is a copy
of what is stacked, so large tensors, which gain nothing, go through the single-tensor path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nero.geometry import working_dtype
from nero.neurons import NeuronLayout
from nero.rounding import Keys
from nero.rule import nero_
from nero.state import Hyper, TensorStep, rounded, rule_arguments
from nero.step.reference import _single_tensor_nero

# Tensors above the first are not worth copying; a stack never grows past the second.
STACKED_TENSOR = 2**17
STACK = 2**21


def _multi_tensor_nero(steps: list[TensorStep], hyper: Hyper) -> list[Tensor]:
    """Update the tensors in stacks of one shape; arguments and result as `_single_tensor_nero`."""
    masks = []
    for stack in _stacks(steps, hyper.capturable):
        if len(stack) == 1:
            masks += _single_tensor_nero(stack, hyper)
        else:
            masks.append(_update_stack(stack, hyper))
    return masks


def _stacks(steps: list[TensorStep], capturable: bool) -> list[list[TensorStep]]:
    stacks: list[list[TensorStep]] = []
    open_stacks: dict[Any, list[TensorStep]] = {}
    for step in steps:
        w, g = step.w, step.g
        size = w.numel()
        if size == 0:
            continue
        if size > STACKED_TENSOR:
            stacks.append([step])
            continue
        layout = (step.layout.split_shape, step.layout.fan_in_axes, step.place)
        t = step.time(capturable)  # a tensor is not read but stacked, and so need not be equal
        key = (*layout, w.device, w.dtype, g.dtype, None if isinstance(t, Tensor) else t)
        stack = open_stacks.get(key)
        if stack is None or (len(stack) + 1) * size > STACK:
            stack = open_stacks[key] = []
            stacks.append(stack)
        stack.append(step)
    return stacks


def _update_stack(stack: list[TensorStep], hyper: Hyper) -> Tensor:
    layout = stack[0].layout
    dtype = working_dtype(stack[0].w.dtype)
    weights = [step.w for step in stack]
    averages = [step.m for step in stack if step.m is not None]
    norms = [step.state["rms"] for step in stack]
    t = stack[0].time(hyper.capturable)
    if isinstance(t, Tensor):
        t = _stack_scalars([step.time(hyper.capturable) for step in stack], layout)
    state = {"scale": _stack_scalars([step.state["scale"] for step in stack], layout)}
    if "radius" in stack[0].state:
        state["radius"] = torch.stack([step.state["radius"] for step in stack])
    w = torch.stack(weights).to(dtype)
    m = torch.stack(averages) if averages else None
    rms = torch.stack(norms)
    finite = nero_(
        w,
        torch.stack([step.g for step in stack]).to(dtype),
        m,
        rms,
        tuple(axis + 1 for axis in layout.fan_in_axes),
        **rule_arguments(layout, state, t, hyper),
    )
    new = rounded(w, weights[0].dtype, stack[0].place, _stack_keys(stack, hyper))
    torch._foreach_copy_(weights, list(new.unbind()))
    torch._foreach_copy_(norms, list(rms.unbind()))
    if m is not None:
        torch._foreach_copy_(averages, list(m.unbind()))
    return finite


def _stack_keys(stack: list[TensorStep], hyper: Hyper) -> Keys | None:
    """The keys of each tensor's noise."""
    keys = [step.noise_keys(hyper) for step in stack]
    if keys[0] is None:
        return None
    device, shape = stack[0].w.device, (-1, *[1] * len(stack[0].layout.split_shape))
    first, second = zip(*[key for key in keys if key is not None], strict=True)
    return _key_tensor(first, device).view(shape), _key_tensor(second, device).view(shape)


def _key_tensor(keys: tuple[Any, ...], device: torch.device) -> Tensor:
    if isinstance(keys[0], Tensor):
        return torch.stack(keys).to(device)
    x = torch.tensor(keys, dtype=torch.int64)
    # From pinned memory, or the host would wait for the device.
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _stack_scalars(scalars: list[Any], layout: NeuronLayout) -> Tensor:
    """One number for each tensor, (tensors, 1, ...), to broadcast against the stack."""
    return torch.stack(scalars).view(-1, *[1] * len(layout.split_shape))
