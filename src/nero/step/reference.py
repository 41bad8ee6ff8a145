"""One tensor after another: rule.py over pieces that stay in the cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nero.geometry import working_dtype
from nero.rule import nero_
from nero.state import Hyper, TensorStep, rounded, rule_arguments

# On CPU a piece of 2**18 entries was the fastest of 2**13 to 2**24 for a large matrix: small enough
# for the cache, large enough to hide the cost of a call. Accelerators want few large launches.
CPU_PIECE = 2**18
ACCELERATOR_PIECE = 2**26
# Weights in low precision are computed in float32, in up to four temporaries twice as wide as the
# weights, or seven with stochastic rounding: in pieces of an eighth or a sixteenth these take no
# more than the tensor. Small tensors are not cut.
LOW_PRECISION_PIECES = 8
STOCHASTIC_PIECES = 16
CPU_SMALL = 2**14
ACCELERATOR_SMALL = 2**20


def _single_tensor_nero(steps: list[TensorStep], hyper: Hyper) -> list[Tensor]:
    """Update each tensor by itself.

    Returns:
        The masks of neurons with a finite gradient that the rule returned.
    """
    return [finite for step in steps for finite in _update(step, hyper)]


def _update(step: TensorStep, hyper: Hyper) -> list[Tensor]:
    arguments = rule_arguments(step.layout, step.state, step.time(hyper.capturable), hyper)
    keys = step.noise_keys(hyper)
    masks = []
    for index in step.layout.pieces(_piece_size(step.w, stochastic=keys is not None)):
        w = step.w[index]
        x = w.to(working_dtype(w.dtype))
        masks.append(
            nero_(
                x,
                step.g[index].to(x.dtype),
                None if step.m is None else step.m[index],
                step.state["rms"][index],
                step.layout.fan_in_axes,
                **{name: _piece(value, index) for name, value in arguments.items()},
            )
        )
        if w.dtype != x.dtype:
            w.copy_(rounded(x, w.dtype, step.place.piece(index), keys))
    return masks


def _piece_size(w: Tensor, *, stochastic: bool) -> int:
    on_cpu = w.device.type == "cpu"
    size, small = (CPU_PIECE, CPU_SMALL) if on_cpu else (ACCELERATOR_PIECE, ACCELERATOR_SMALL)
    if w.dtype == working_dtype(w.dtype):
        return size
    pieces = STOCHASTIC_PIECES if stochastic else LOW_PRECISION_PIECES
    return min(size, max(small, w.numel() // pieces))


def _piece(value: Any, index: tuple[slice, ...]) -> Any:
    return value[index] if isinstance(value, Tensor) and value.ndim else value
