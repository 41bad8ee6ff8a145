"""Clipping by the norm of the whole gradient, without spreading what is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nero.distributed.shards import full
from nero.geometry import neuron_norm
from nero.groups import layout_of
from nero.integrations.wrapped import unwrap


@torch.no_grad()
def clip_grad_norm_(optimizer: Any, max_norm: float) -> Tensor:
    """Clip the norm of the whole gradient, leaving out neurons whose gradient is not finite.

    `torch.nn.utils.clip_grad_norm_` multiplies every gradient by a factor that one NaN makes NaN,
    so that all neurons skip the step. Here the norm is taken over the other neurons, and under
    `nonfinite="skip"` only those with a NaN or infinity skip it. Nero needs no clipping, as the
    size of a gradient does not set the size of a step; it limits what one large gradient leaves in
    the running averages.

    Args:
        optimizer: a `nero.Nero`, wrapped or not; the gradients of its parameters are changed.
        max_norm: the largest norm; not negative.

    Returns:
        The norm before clipping, 0-d, of the neurons with a finite gradient.

    Raises:
        ValueError: a negative `max_norm`.
        TypeError: `optimizer` is no `nero.Nero`, nor wraps one.

    Examples:
        >>> import torch, nero
        >>> w = torch.nn.Parameter(torch.randn(3, 4))
        >>> optimizer = nero.Nero([w])
        >>> w.grad = torch.ones(3, 4)
        >>> w.grad[1, 2] = torch.nan
        >>> round(nero.integrations.clip_grad_norm_(optimizer, 1.0).item(), 3)
        2.828
        >>> round(w.grad[0].norm().item(), 3), w.grad[1].isnan().any().item()
        (0.707, True)
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must not be negative, got {max_norm!r}")
    gradients, norms = [], []
    for group in unwrap(optimizer).param_groups:
        for p in group["params"]:
            if p.grad is None or not p.grad.numel():
                continue
            norm = full(neuron_norm(p.grad, layout_of(p, group)))
            gradients.append(p.grad)
            norms.append(torch.linalg.vector_norm(torch.where(norm.isfinite(), norm, 0)).view(1))
    if not gradients:
        return torch.zeros(())
    total = torch.linalg.vector_norm(torch.cat([norm.to(norms[0].device) for norm in norms]))
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.device))
    return total
