"""The compiled kernels as a custom operator, `nero::fused_step_`, which torch.compile can trace."""

from __future__ import annotations

import torch
from torch import Tensor

from nero.kernels.cpu.group import CpuGroup
from nero.kernels.cpu.library import Missing, load
from nero.kernels.triton import launch as cuda
from nero.neurons import AxisSpec, NeuronLayout
from nero.state import Hyper, tensor_step
from nero.step.foreach import _multi_tensor_nero

FREE, INITIAL, FIXED = "free", "initial", "fixed"


def fused_step(
    pairs: list[tuple[Tensor, Tensor]],
    states: list[dict[str, Tensor]],
    hyper: Hyper,
    neuron_axes: tuple[AxisSpec, ...],
) -> Tensor:
    """One step of parameters of one device, as a single node of a compiled graph.

    Returns:
        How many neurons were skipped, 0-d int64.
    """
    radius = hyper.radius
    kind = FREE if radius is None else INITIAL if radius == "initial" else FIXED
    lr = hyper.lr
    return fused_step_(
        [p for p, _ in pairs],
        [g for _, g in pairs],
        [state["exp_avg"] for state in states] if hyper.momentum > 0 else [],
        [state["rms"] for state in states],
        [state["step"] for state in states],
        [state["scale"] for state in states],
        # A tensor whose neurons cannot hold the radius has none; its scale takes the place.
        [state.get("radius", state["scale"]) for state in states] if kind == INITIAL else [],
        [state["seed"] for state in states] if hyper.rounding == "stochastic" else [],
        lr if isinstance(lr, Tensor) else torch.tensor(lr, dtype=torch.float64),
        [n for axis in neuron_axes for n in (axis if isinstance(axis, tuple) else (axis, 0))],
        hyper.beta,
        hyper.momentum,
        hyper.center,
        kind,
        float(radius) if isinstance(radius, (int, float)) else 1.0,
        hyper.nonfinite,
        hyper.maximize,
        hyper.rounding,
    )


@torch.library.custom_op("nero::fused_step_", mutates_args=("weights", "averages", "rms", "steps"))
def fused_step_(
    weights: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    rms: list[Tensor],
    steps: list[Tensor],
    scales: list[Tensor],
    radii: list[Tensor],
    seeds: list[Tensor],
    lr: Tensor,
    neuron_axes: list[int],
    beta: float,
    momentum: float,
    center: bool,
    radius_kind: str,
    radius: float,
    nonfinite: str,
    maximize: bool,
    rounding: str,
) -> Tensor:
    """Update `weights` and their state in place; axes come as pairs, with 0 blocks for all."""
    axes = tuple(
        (axis, blocks) if blocks else axis
        for axis, blocks in zip(neuron_axes[::2], neuron_axes[1::2], strict=True)
    )
    hyper = Hyper(
        lr=lr.item() if lr.device.type == "cpu" else lr,
        beta=beta,
        momentum=momentum,
        center=center,
        radius={FREE: None, INITIAL: "initial"}.get(radius_kind, radius),
        nonfinite=nonfinite,
        maximize=maximize,
        capturable=False,
        rounding=rounding,
    )
    states = {
        w: {"rms": rms[i], "step": steps[i], "scale": scales[i]} for i, w in enumerate(weights)
    }
    for name, tensors in (("exp_avg", averages), ("radius", radii), ("seed", seeds)):
        for w, x in zip(weights, tensors, strict=False):
            states[w][name] = x
    pairs = list(zip(weights, gradients, strict=True))
    left = dict.fromkeys(weights, "")
    skipped = torch.zeros((), dtype=torch.int64, device=weights[0].device)
    library = load()
    if weights[0].device.type == "cpu" and not isinstance(library, Missing):
        left, count = CpuGroup(library).step(pairs, states, hyper, axes)
        skipped += count
    rest = [
        tensor_step(p, g, states[p], NeuronLayout(tuple(p.shape), axes), hyper)
        for p, g in pairs
        if p in left
    ]
    for step in rest:
        step.state["step"].add_(1)
    fused = [step for step in rest if cuda.fits(step, hyper) is None]
    others = [step for step in rest if cuda.fits(step, hyper) is not None]
    masks = cuda._fused_cuda_nero(fused, hyper) if fused else []
    for finite in masks + _multi_tensor_nero(others, hyper):
        skipped = skipped + (~finite).sum().to(skipped.device)
    return skipped


@fused_step_.register_fake
def _(weights: list[Tensor], *args: object) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=weights[0].device)
