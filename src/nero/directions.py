r"""Directions for the rule: the gradients of a layer's neurons, made orthogonal to each other.

A batch's gradient has low rank, so that all neurons of a layer tend to turn in the same few
directions: n neurons that turn by eta each may change the layer, as a map, by eta sqrt(n). With
D the layer's (neurons x fan-in) gradient, its row means taken off where neurons are centred,

    U   = polar(D)          the nearest matrix with orthonormal rows (columns, where it is taller
                            than wide): U = P Q^T for the singular value decomposition D = P S Q^T
    u_i = U_i / ||U_i||     each neuron's own direction

and the rule takes u_i for the gradient of neuron i. Every neuron turns by lr, and where the
fan-in allows it the layer changes by lr as well.

polar(D) comes from Newton and Schulz's iteration, X <- P X with P = a + b G + c G^2, G = X X^T, on
the side where G is smaller: odd polynomials of the singular values, without a decomposition. With
s = (sum of sigma^8)^(1/8), which is at least the largest singular value, `ITERATIONS` of them (15
matrix products) bring every singular value in [s / 500, s] to within 0.029 of 1, or 0.036 in
bfloat16. Smaller ones grow by a factor of about 500, so that 0 stays 0; bfloat16's rounding grows
with them: of a gradient of rank 20 it makes as much noise as there is direction.

Of wide matrices in float32 G alone is iterated, G <- P G P and Q <- P Q, and X becomes Q X at the
end: 17 products of G's size and 2 of X's in place of 5 and 10. That squares X's condition, whose
rounding moves singular values near s / 500 by up to 0.01.

Source: R. Bernstein and L. Newhouse, "Old Optimizer, New Norm", 2024, and K. Jordan et al.,
"Muon", 2024, for polar factors in optimisers; N. Amsel et al., "The Polar Express", 2025,
arXiv:2505.16932, for polynomials that are optimal one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nero.geometry import NOISE_ULPS, axis_mean
from nero.neurons import NeuronLayout
from nero.rule import keep_

# (a, b, c) of each iteration, from tests/minimax.py. The first works on singular values in [0, 1].
COEFFICIENTS = (
    (7.458181060, -20.782832759, 14.930233873),
    (4.115959103, -3.493165227, 0.764288374),
    (3.959575992, -3.309694459, 0.720806141),
    (2.816141310, -2.066961049, 0.448688300),
    (2.005020321, -1.373686078, 0.377571877),
)
ITERATIONS = len(COEFFICIENTS)
# How many times as wide as high matrices are of which G alone is iterated.
WIDE = 2
# Entries that are squared at a time where they need memory: few enough to stay in the cache.
SQUARED = 2**17


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
    return directions_(stack([d]), center=center, dtype=dtype)


def stack(parts: list[Tensor], *, copy: bool = True) -> Tensor:
    """Stacks of matrices of one shape as one, as `directions_` is fastest on it.

    Args:
        parts: each `(matrices, neurons, fan_in)`.
        copy: whether a single matrix is copied as well; default True.

    Returns:
        `(matrices, neurons, fan_in)`, where matrices are taller than wide with the neurons next to
        each other in memory.
    """
    if len(parts) == len(parts[0]) == 1:
        return parts[0].clone() if copy else parts[0]
    if parts[0].shape[-2] > parts[0].shape[-1]:
        return torch.cat([part.mT for part in parts]).mT
    return torch.cat(parts)


def directions_(d: Tensor, *, center: bool, dtype: torch.dtype | None = None) -> Tensor:
    """As `directions`, in place; at its peak it takes two more stacks of the size of `d`."""
    finite = _scale_(d, center=center)
    if dtype in (None, d.dtype):
        polar(d)
    else:
        d.copy_(polar(d.to(dtype)))
    norm = _one_for_zero_(_norm(d))
    return d.div_(norm.masked_fill_(finite.logical_not_(), torch.nan))


def _scale_(d: Tensor, *, center: bool) -> Tensor:
    """Centre a stack and bring each matrix's entries to 1 at most; returns which rows were finite.

    The others become zero, as do rows without a direction and those below 1e-18 of the largest.
    """
    peak = torch.maximum(d.amax(-1, keepdim=True), d.amin(-1, keepdim=True).neg_())
    finite = peak < torch.inf
    largest = peak.nan_to_num_(0.0, posinf=0.0).amax(-2, keepdim=True)
    d.div_(_one_for_zero_(largest))
    noise: Tensor | float = 0.0
    if center:
        mean = axis_mean(d, (-1,))
        d.sub_(mean)
        # What rounding leaves of a constant row is no direction.
        ulps = NOISE_ULPS * math.sqrt(d.shape[-1])
        noise = mean.abs_().mul_(ulps * torch.finfo(d.dtype).eps)
    keep_(d, finite & (_norm(d) > noise))
    return finite


def _one_for_zero_(x: Tensor) -> Tensor:
    """Put 1 where there is 0, to divide by."""
    return x.masked_fill_(x == 0, 1)


def _norm(d: Tensor) -> Tensor:
    """Norms of rows whose squares are in range, whatever the strides, with little memory.

    `torch.linalg.vector_norm` takes 20 times as long on CPU where a row's entries are not adjacent.
    Where they are it loses 1e-5 of a long row, which is of no matter here.
    """
    if d.device.type != "cpu" or d.stride(-1) == 1:
        return torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    columns = max(1, SQUARED * d.shape[-1] // d.numel())
    squares = [part.square().sum(-1, keepdim=True) for part in d.split(columns, -1)]
    return torch.cat(squares, -1).sum(-1, keepdim=True).sqrt_()


def polar(x: Tensor) -> Tensor:
    """The polar factors of a stack of matrices, to the accuracy that the module states.

    Args:
        x: `(matrices, rows, columns)`, entries of size 1 at most, float64, float32 or bfloat16.
            It is written over, by the factors where it is not bfloat16. At its peak this takes two
            more stacks of its size, or of a bfloat16 one three. Fastest where the longer axis is
            that of adjacent entries.

    Returns:
        The factors, like `x`.
    """
    # One matrix by itself: products of stacks copy what is transposed, which costs half of them.
    one = len(x) == 1
    short, add = (x[0], torch.addmm) if one else (x, torch.baddbmm)
    short = short.mT if short.shape[-2] > short.shape[-1] else short
    shape, narrow = x.shape, x.dtype == torch.bfloat16
    del x
    if short.dtype == torch.float32 and _is_wide(short):
        short.copy_(_factor(short, add) @ short)
    else:
        for iteration, (a, b, c) in enumerate(COEFFICIENTS):
            gram = short @ short.mT
            if iteration == 0:
                square, shrink = _scale_gram_(gram)
                short.mul_(shrink.sqrt())
                q = gram.mul_(b).add_(square, alpha=c)
                del square
            else:
                q = add(gram, gram, gram, beta=b, alpha=c)
            del gram
            product = add(short, q, short, beta=a)
            # A copy takes some per cent of the time; one stack more is small in a narrow dtype.
            short = product if narrow else short.copy_(product)
            del product, q
    found = short[None] if one else short
    return found if found.shape == shape else found.mT


def _is_wide(short: Tensor) -> bool:
    """Whether G alone is iterated: matrices are wide, and PyTorch does not round products further.

    X is iterated where that is not known: compiled code may not ask, and PyTorch raises an error
    where a backend has a precision of its own (`torch.backends.cuda.matmul.fp32_precision`).
    """
    if short.shape[-1] < WIDE * short.shape[-2] or torch.compiler.is_compiling():
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        return False


def _factor(short: Tensor, add: Callable[..., Tensor]) -> Tensor:
    """Q, for which Q X is the polar factor, from G alone."""
    gram = short @ short.mT
    (a, b, c), *others = COEFFICIENTS
    q, shrink = _scale_gram_(gram)
    p = q.mul_(c).add_(gram, alpha=b)
    p.diagonal(dim1=-2, dim2=-1).add_(a)
    for a, b, c in others:
        gram = p @ gram
        gram = gram @ p  # in two lines, so that the one before is free
        p = add(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        q = p @ q
    return q.mul_(shrink.sqrt())


def _scale_gram_(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Divide G by s^2; returns its square and 1 / s^2 of each matrix."""
    square = gram @ gram
    # ||G^2||_F = sum of sigma^8 to the half, s^4 of the module's text.
    bound = torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True)
    shrink = _one_for_zero_(bound).rsqrt_()
    gram.mul_(shrink)
    return square.mul_(shrink).mul_(shrink), shrink


def layers(x: Tensor, layout: NeuronLayout, blocks: int = 1) -> Tensor:
    """A tensor as the stack of matrices that are made orthogonal each by itself.

    The last axis of neurons counts rows. The axes before it (experts, the groups of a transposed
    convolution) count matrices, and so do `blocks` equal pieces of the last one, where several
    layers lie packed in it: 3 for q, k and v, 4 for the gates of an LSTM, the groups of a
    convolution.

    The entries of a neuron come in the order in which they lie in memory, which is of no matter to
    directions.

    Args:
        x: in `layout.split_shape`.
        layout: its layout, of two or more axes.
        blocks: a divisor of the size of the last axis of neurons.

    Returns:
        `(matrices, neurons, fan_in)`, a view of `x` where its strides allow one.

    Raises:
        ValueError: `blocks` is no such divisor.

    Examples:
        >>> import torch, nero
        >>> from nero.directions import layers
        >>> tuple(layers(torch.zeros(192, 64), nero.NeuronLayout((192, 64)), blocks=3).shape)
        (3, 64, 64)
        >>> experts = nero.NeuronLayout((8, 32, 16), neuron_axes=(0, 1))
        >>> tuple(layers(torch.zeros(8, 32, 16), experts).shape)
        (8, 32, 16)
    """
    return x.permute(_order(layout, x.stride())).reshape(-1, *layer_shape(layout, blocks))


def layer_shape(layout: NeuronLayout, blocks: int = 1) -> tuple[int, int]:
    """How many neurons and entries of each the matrices of `layers` have.

    Raises:
        ValueError: `blocks` does not divide the last axis of neurons.
    """
    neuron_axes = _neuron_axes(layout)
    rows = layout.split_shape[neuron_axes[-1]] if neuron_axes else 1
    if rows % blocks:
        raise ValueError(f"blocks={blocks} does not divide the {rows} neurons of a layer")
    return rows // blocks, layout.fan_in


def from_layers(u: Tensor, layout: NeuronLayout, strides: Sequence[int]) -> Tensor:
    """What `layers` has made of a tensor of those strides, in `layout.split_shape` again.

    Args:
        u: `(matrices, neurons, fan_in)`, contiguous.
        layout: the tensor's.
        strides: of what `layers` was given, one for each axis of `layout.split_shape`.

    Returns:
        A view of `u`, with `strides` again where the tensor was dense and its neurons lay one after
        another.
    """
    order = _order(layout, strides)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return u.reshape([layout.split_shape[axis] for axis in order]).permute(inverse)


def _order(layout: NeuronLayout, strides: Sequence[int]) -> list[int]:
    """The split shape's axes, those of neurons first, those of fan-in by their strides."""
    fan_in = sorted(layout.fan_in_axes, key=lambda axis: -strides[axis])
    return [*_neuron_axes(layout), *fan_in]


def _neuron_axes(layout: NeuronLayout) -> list[int]:
    fan_in = layout.fan_in_axes
    return [axis for axis in range(len(layout.split_shape)) if axis not in fan_in]
