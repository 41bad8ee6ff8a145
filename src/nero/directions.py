r"""Directions for the rule: the gradients of a layer's neurons, made orthogonal to each other.

A batch's gradient has low rank, so that all neurons of a layer tend to turn in the same few
directions: n neurons that turn by eta each may change the layer, as a map, by eta sqrt(n). With
D the layer's (neurons x fan-in) gradient, its row means taken off where neurons are centred,

    U   = polar(D)          the nearest matrix with orthonormal rows (columns, where it is taller
                            than wide): U = P Q^T for the singular value decomposition D = P S Q^T
    u_i = U_i / ||U_i||     each neuron's own direction

and the rule takes u_i for the gradient of neuron i. Every neuron turns by lr, and where the
fan-in allows it the layer changes by lr as well.

polar(D) comes from Newton and Schulz's iteration, X <- a X + (b G + c G^2) X with G = X X^T, on the
side where G is smaller: odd polynomials of the singular values, without a decomposition. With
s = (sum of sigma^8)^(1/8), which is at least the largest singular value, `ITERATIONS` of them (15
matrix products) bring every singular value in [s / 500, s] to within 0.029 of 1, or 0.036 in
bfloat16. Smaller ones grow by a factor of about 500, so that 0 stays 0; bfloat16's rounding grows
with them: of a gradient of rank 20 it makes as much noise as there is direction.

Source: R. Bernstein and L. Newhouse, "Old Optimizer, New Norm", 2024, and K. Jordan et al.,
"Muon", 2024, for polar factors in optimisers; N. Amsel et al., "The Polar Express", 2025,
arXiv:2505.16932, for polynomials that are optimal one after another.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nero.geometry import NOISE_ULPS, axis_mean, axis_norm
from nero.neurons import NeuronLayout

# (a, b, c) of each iteration, from tests/minimax.py. The first works on singular values in [0, 1].
COEFFICIENTS = (
    (7.458181060, -20.782832759, 14.930233873),
    (4.115959103, -3.493165227, 0.764288374),
    (3.959575992, -3.309694459, 0.720806141),
    (2.816141310, -2.066961049, 0.448688300),
    (2.005020321, -1.373686078, 0.377571877),
)
ITERATIONS = len(COEFFICIENTS)


def directions(d: Tensor, *, center: bool, dtype: torch.dtype | None = None) -> Tensor:
    """The direction u_i of every neuron of a stack of layers.

    Args:
        d: gradients or their running average, `(layers, neurons, fan_in)`, float32 or float64,
            of any strides; not modified.
        center: whether neurons are centred, so that their mean is no direction to turn in.
        dtype: that of the matrix products; None for d's own.

    Returns:
        Directions of norm 1, like `d`; zero for a neuron whose gradient is zero or, where centred,
        constant. A neuron whose gradient is not finite gets NaN, and counts as zero to the others.

    Examples:
        >>> import torch
        >>> from nero.directions import directions
        >>> d = torch.tensor([[[3.0, 0.0, 0.0], [3.0, 1e-1, 0.0]]])  # two neurons, nearly alike
        >>> u = directions(d, center=False)
        >>> bool((u @ u.mT - torch.eye(2)).abs().max() < 0.05)
        True
    """
    finite = torch.isfinite(axis_norm(d, (-1,)))
    # polar() alone holds the scaled gradient, so that its memory is free in time.
    u = polar(_scaled(d, finite, center=center).to(dtype or d.dtype)).to(d.dtype)
    norm = axis_norm(u, (-1,))
    u = u.div_(torch.where(norm > 0, norm, 1))
    return u.masked_fill_(~finite, torch.nan)


def _scaled(d: Tensor, finite: Tensor, *, center: bool) -> Tensor:
    """A copy of a stack, each matrix of Frobenius norm 1 or zero, other rows than `finite` zero."""
    axes = (-1,)
    x = d.clone(memory_format=torch.contiguous_format)
    drift = torch.zeros_like(x[..., :1])
    if center:
        mean = axis_mean(x, axes)
        x.sub_(mean)
        # What rounding leaves of a constant row is no direction.
        drift = NOISE_ULPS * torch.finfo(x.dtype).eps * math.sqrt(x.shape[-1]) * mean.abs()
    norm = axis_norm(x, axes)
    kept = finite & torch.isfinite(norm) & (norm > drift)
    norm = torch.where(kept, norm, 0)
    largest = norm.amax(-2, keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    # Two factors, as the product of both may leave the range of the dtype.
    x.div_(largest).div_((norm / largest).square().sum(-2, keepdim=True).sqrt().clamp_(min=1))
    return x.masked_fill_(~kept, 0)


def polar(x: Tensor) -> Tensor:
    """The polar factors of a stack of matrices, to the accuracy that the module states.

    Args:
        x: `(matrices, rows, columns)` of Frobenius norm 1 at most, float64, float32 or bfloat16.

    Returns:
        Like `x`, whose memory may have been used. At its peak, and besides what is returned, it
        takes two more stacks of the size of `x`.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for iteration, (a, b, c) in enumerate(COEFFICIENTS):
        gram = x @ x.mT
        if iteration == 0:
            square = gram @ gram
            # ||G^2||_F = sum of sigma^8 to the half, s^4 of the module's text.
            bound = torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True)
            shrink = torch.where(bound > 0, bound, 1).rsqrt()  # 1 / s^2
            x = x.mul_(shrink.sqrt())
            q = gram.mul_(shrink).mul_(b).add_(square.mul_(shrink).mul_(shrink), alpha=c)
            del square
        else:
            q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        del gram
        x = torch.baddbmm(x, q, x, beta=a)
        del q
    return x.mT if tall else x


def layers(x: Tensor, layout: NeuronLayout, blocks: int = 1) -> Tensor:
    """A tensor as the stack of matrices that are made orthogonal each by itself.

    The last axis of neurons counts rows. The axes before it (experts, the groups of a transposed
    convolution) count matrices, and so do `blocks` equal pieces of the last one, where several
    layers lie packed in it: 3 for q, k and v, 4 for the gates of an LSTM, the groups of a
    convolution.

    Args:
        x: in `layout.split_shape`.
        layout: its layout, of two or more axes.
        blocks: a divisor of the size of the last axis of neurons.

    Returns:
        `(matrices, neurons, fan_in)`, a view of `x` where its strides allow one.

    Examples:
        >>> import torch, nero
        >>> from nero.directions import layers
        >>> tuple(layers(torch.zeros(192, 64), nero.NeuronLayout((192, 64)), blocks=3).shape)
        (3, 64, 64)
        >>> experts = nero.NeuronLayout((8, 32, 16), neuron_axes=(0, 1))
        >>> tuple(layers(torch.zeros(8, 32, 16), experts).shape)
        (8, 32, 16)
    """
    order, _ = _order(layout)
    rows = _rows(layout)
    return x.permute(order).reshape(-1, rows // blocks, layout.fan_in)


def from_layers(u: Tensor, layout: NeuronLayout) -> Tensor:
    """What `layers` has made a stack of, in `layout.split_shape` again: a view of `u`."""
    order, inverse = _order(layout)
    return u.reshape([layout.split_shape[axis] for axis in order]).permute(inverse)


def _order(layout: NeuronLayout) -> tuple[list[int], list[int]]:
    """The split shape's axes with those of neurons first, and the way back."""
    fan_in = layout.fan_in_axes
    order = [axis for axis in range(len(layout.split_shape)) if axis not in fan_in] + list(fan_in)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return order, inverse


def _rows(layout: NeuronLayout) -> int:
    order, _ = _order(layout)
    neuron_axes = order[: len(order) - len(layout.fan_in_axes)]
    return layout.split_shape[neuron_axes[-1]] if neuron_axes else 1
