"""Geometry of neurons: mean, norm, projection, balance and turning angle, over a layout.

A neuron is *balanced* when its weights sum to 0 and their squares to 1: it lives on the unit
sphere inside the hyperplane orthogonal to the all-ones vector. Its weights are the normal of a
hyperplane in its input space, so a move along the sphere turns that hyperplane by an angle.

The public functions take a tensor and its `nero.NeuronLayout` and return one number per
neuron, with size 1 on the fan-in axes (`layout.neuron_shape`). The functions over bare axes
beneath them (`axis_norm`, `axis_project_`) serve the update rule, which has split its tensors
already. The public ones take DTensors too, and return DTensors; a neuron that is sharded between
processes is gathered for that, so that every process has to make the call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from nero.distributed.shards import full, is_dtensor, local, on_neurons_, over_neurons
from nero.neurons import NeuronLayout

__all__ = ["is_balanced", "neuron_mean", "neuron_norm", "project_", "turning_angle"]

Axes = tuple[int, ...]

# A neuron whose centred norm is below this many units of rounding of the norm it had before is
# constant as far as its dtype can show: normalising it would turn rounding noise into weights.
NOISE_ULPS = 16
# Neurons of a smaller norm have none that is worth keeping: they are meant to start at zero.
TINY = 1e-3
# The public functions take this many entries at a time: what they allocate stays small beside a
# large table, and a tensor of fewer is one piece.
PIECE = 2**22
# What rounding to the dtype, and summing in the working one, leaves of a projected neuron's mean
# (times the root of the fan-in) and of its distance from the radius, in units of the radius.
ROUNDING_ULPS = 4


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a tensor of `dtype` is computed: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def split_view(x: Tensor, layout: NeuronLayout) -> Tensor:
    """`x` viewed in `layout.split_shape`; shares memory with `x`, whatever its strides."""
    if x.shape != layout.shape:
        raise ValueError(f"the layout is of shape {layout.shape}, the tensor {tuple(x.shape)}")
    return x if layout.split_shape == layout.shape else x.view(layout.split_shape)


def neuron_mean(w: Tensor, layout: NeuronLayout) -> Tensor:
    """Mean weight of each neuron.

    Args:
        w: weights, `layout.shape`, any floating dtype.
        layout: which axes count neurons.

    Returns:
        Means, `layout.neuron_shape`, float32 (float64 for float64).

    Examples:
        >>> import torch, nero
        >>> w = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]])
        >>> nero.geometry.neuron_mean(w, nero.NeuronLayout((2, 3))).flatten().tolist()
        [2.0, 0.0]
    """
    if is_dtensor(w):
        return over_neurons(neuron_mean, (w,), layout)
    return _by_pieces(axis_mean, w, layout)


def neuron_norm(w: Tensor, layout: NeuronLayout) -> Tensor:
    """Euclidean norm of each neuron's weights.

    Neither overflows nor underflows on the way: weights of 1e-30 and of 1e30 have a norm.

    Args:
        w: weights, `layout.shape`, any floating dtype.
        layout: which axes count neurons.

    Returns:
        Norms, `layout.neuron_shape`, float32 (float64 for float64).

    Examples:
        >>> import torch, nero
        >>> w = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> nero.geometry.neuron_norm(w, nero.NeuronLayout((2, 2))).flatten().tolist()
        [5.0, 2.0]
    """
    if is_dtensor(w):
        return over_neurons(neuron_norm, (w,), layout)
    return _by_pieces(axis_norm, w, layout)


def project_(
    w: Tensor,
    layout: NeuronLayout,
    *,
    center: bool = True,
    radius: float | Tensor | None = 1.0,
) -> Tensor:
    """Put each neuron on its constraint set, in place.

    Subtracts the neuron's mean (`center`), then scales its norm to `radius`: the nearest point of
    the set in the Euclidean norm. A neuron that is on the set to within the rounding of its dtype
    keeps every bit, so projecting twice is projecting once, and weights that come back from a
    checkpoint stay as they were saved.

    Neurons that cannot be projected are left as they are, to the last bit: those with too small a
    fan-in to turn on the set (`nero.NeuronLayout.can_hold`), zero ones, constant ones where
    `center` is on, and those that hold NaN or infinities.

    Args:
        w: weights, `layout.shape`, any floating dtype; modified.
        layout: which axes count neurons.
        center: whether to subtract the mean.
        radius: the norm to scale to; a tensor of `layout.neuron_shape` gives each neuron its
            own, where 0 leaves that neuron unprojected; None leaves every norm free.

    Returns:
        `w`.

    Examples:
        >>> import torch, nero
        >>> w = torch.tensor([[3.0, -1.0, 1.0], [5.0, 5.0, 5.0]])
        >>> layout = nero.NeuronLayout((2, 3))
        >>> bool(nero.geometry.is_balanced(nero.geometry.project_(w, layout), layout)[0])
        True
        >>> w[1].tolist()  # a constant neuron has no direction once centred
        [5.0, 5.0, 5.0]
    """
    if w.numel() == 0 or not layout.can_hold(center=center, normalize=radius is not None):
        return w
    if is_dtensor(w):
        mine = local(radius)
        on_neurons_(partial(project_, center=center, radius=mine), w, layout)
        return w
    view, tolerance = split_view(w.detach(), layout), ROUNDING_ULPS * torch.finfo(w.dtype).eps
    for index in layout.pieces(PIECE):
        piece = view[index]
        x = piece.to(working_dtype(w.dtype))
        own = radius[index] if isinstance(radius, Tensor) and radius.ndim else radius
        _project_piece_(x, layout, center=center, radius=own, tolerance=tolerance)
        if x.dtype != w.dtype:
            piece.copy_(x)
    return w


def _project_piece_(
    x: Tensor,
    layout: NeuronLayout,
    *,
    center: bool,
    radius: float | Tensor | None,
    tolerance: float,
) -> None:
    axes = layout.fan_in_axes
    norm, drift = axis_norm(x, axes), axis_mean(x, axes).abs() * layout.fan_in**0.5
    off = drift > tolerance * norm if center else torch.zeros_like(norm, dtype=torch.bool)
    if radius is not None:
        off = off | ((norm - radius).abs() > tolerance * radius)
    # Twice, for weights whose mean is orders of magnitude above the spread around it: what the
    # rounding of that mean adds to the norm is gone the second time.
    for _ in range(2):
        axis_project_(x, axes, center=center, radius=radius, where=off)


def is_balanced(
    w: Tensor, layout: NeuronLayout, *, radius: float = 1.0, atol: float = 1e-6
) -> Tensor:
    """Whether each neuron has mean 0 and norm `radius`.

    Args:
        w: weights, `layout.shape`, any floating dtype.
        layout: which axes count neurons.
        radius: the norm that a balanced neuron has.
        atol: how far mean and norm may be off; the default suits float32 weights (bfloat16 ones
            need about 1e-2).

    Returns:
        Booleans, `layout.neuron_shape`.

    Examples:
        >>> import torch, nero
        >>> w = torch.tensor([[0.6, -0.8, 0.0], [2**-0.5, -(2**-0.5), 0.0]])
        >>> nero.geometry.is_balanced(w, nero.NeuronLayout((2, 3))).flatten().tolist()
        [False, True]
    """
    mean, norm = neuron_mean(w, layout), neuron_norm(w, layout)
    return (mean.abs() <= atol) & ((norm - radius).abs() <= atol)


def starts_at_zero(w: Tensor, layout: NeuronLayout) -> bool:
    """Whether neurons are so small in the mean that they are meant to grow from zero; reads them.

    False for weights that hold no numbers, as on the meta device.
    """
    if w.is_meta or not w.numel() or layout.fan_in == 1:
        return False
    try:
        if not is_dtensor(w):
            # A few entries, of all over the tensor: enough to know most weights from zero.
            few = tuple(slice(None, None, max(1, size // 8)) for size in w.shape)
            if w.detach()[few].abs().mean() > TINY:
                return False
        return bool(full(neuron_norm(w, layout)).mean() <= TINY)
    except RuntimeError:  # of a mode that has no numbers either
        return False


def centring_fills_zeros(w: Tensor, layout: NeuronLayout) -> bool:
    """Whether most weights are exactly zero, as after pruning, and centring would change them."""
    if w.is_meta or not w.numel() or layout.fan_in == 1:
        return False
    try:
        if not 0 < int(torch.count_nonzero(local(w.detach()))) < local(w).numel() / 2:
            return False
        if is_dtensor(w):
            return True  # what follows would be a collective, for some processes only
        drift = neuron_mean(w, layout).abs() * layout.fan_in**0.5
        tolerance = ROUNDING_ULPS * torch.finfo(w.dtype).eps
        return bool((drift > tolerance * neuron_norm(w, layout)).any())
    except RuntimeError:  # of a mode that has no numbers
        return False


def turning_angle(before: Tensor, after: Tensor, layout: NeuronLayout) -> Tensor:
    """The angle between each neuron's weights before and after, in radians.

    Computed in float64 as `2 atan2(|a - b|, |a + b|)` of the unit vectors a and b. The arc cosine
    of their product would lose every turn below about 1e-8 (1e-4 in float32); this form keeps full
    relative precision from 0 to pi.

    Args:
        before: weights, `layout.shape`, any floating dtype.
        after: weights of the same shape.
        layout: which axes count neurons.

    Returns:
        Angles from 0 to pi, `layout.neuron_shape`, float64; NaN where a neuron is zero.

    Source:
        W. Kahan, "How futile are mindless assessments of roundoff in floating-point
        computation?", 2006, section 12.

    Examples:
        >>> import torch, nero
        >>> before = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> after = torch.tensor([[1.0, 1e-9]], dtype=torch.float64)
        >>> nero.geometry.turning_angle(before, after, nero.NeuronLayout((1, 2))).item()
        1e-09
    """
    if is_dtensor(before):
        return over_neurons(turning_angle, (before, after), layout)
    axes = layout.fan_in_axes
    a, b = (split_view(w.detach().to(torch.float64), layout) for w in (before, after))
    a = a / axis_norm(a, axes)
    b = b / axis_norm(b, axes)
    return 2 * torch.atan2(axis_norm(a - b, axes), axis_norm(a + b, axes))


def axis_mean(x: Tensor, axes: Axes) -> Tensor:
    """Mean over `axes`, kept with size 1. Over no axes: `x` itself."""
    return x.sum(axes, keepdim=True) / _count(x, axes) if axes else x


def axis_norm(x: Tensor, axes: Axes) -> Tensor:
    """2-norm over `axes`, kept with size 1, over the whole range of the dtype.

    Allocates one temporary of x's size. The squares are summed by `sum`, which keeps partial sums
    on CPU, because `torch.linalg.vector_norm` loses 1e-5 of a long row there.
    """
    if not axes:
        return x.abs()
    peak = torch.maximum(x.amax(axes, keepdim=True), x.amin(axes, keepdim=True).neg())
    unit = x / torch.where(peak == 0, 1, peak)
    return peak * unit.square_().sum(axes, keepdim=True).sqrt()


def axis_project_(
    x: Tensor,
    axes: Axes,
    *,
    center: bool,
    radius: float | Tensor | None,
    where: Tensor | None = None,
) -> Tensor:
    """`project_` over bare axes of a tensor in its working dtype.

    `where` (one boolean per neuron) names the neurons to project; the others keep every bit.
    """
    if not axes or (not center and radius is None):
        return x
    if isinstance(radius, Tensor):
        where = radius > 0 if where is None else where & (radius > 0)
    mean = axis_mean(x, axes) if center else x.new_zeros(())
    movable = torch.isfinite(mean) if where is None else where & torch.isfinite(mean)
    mean = torch.where(movable & (mean != 0), mean, 0)  # +0: subtracting it changes no bit
    if center:
        x.sub_(mean)
    norm = axis_norm(x, axes)
    noise = NOISE_ULPS * torch.finfo(x.dtype).eps * _count(x, axes) ** 0.5 * mean.abs()
    done = movable & torch.isfinite(norm) & (norm > noise)
    if radius is not None:
        x.mul_(torch.where(done, radius / norm, 1))
    if center:
        # Where the centred norm was small, dividing by it has magnified the rounding of the mean:
        # that goes now. Where nothing was projected the mean comes back; the entries of such a
        # neuron lie within rounding of it, so both subtractions and the result are exact.
        x.sub_(torch.where(done, axis_mean(x, axes), 0 - mean))
    return x


def _by_pieces(
    function: Callable[[Tensor, Axes], Tensor], w: Tensor, layout: NeuronLayout
) -> Tensor:
    """A number per neuron, computed from a few neurons at a time; `function` takes bare axes."""
    view, dtype = split_view(w.detach(), layout), working_dtype(w.dtype)
    indices = list(layout.pieces(PIECE)) or [()]
    found = [function(view[index].to(dtype), layout.fan_in_axes) for index in indices]
    return found[0] if len(found) == 1 else torch.cat(found, dim=len(indices[0]) - 1)


def _count(x: Tensor, axes: Axes) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count
