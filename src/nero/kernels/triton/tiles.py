"""What both paths of the CUDA kernel do with a tile: its places in memory, norms, and the turn."""
# Triton reads these functions as source, in a language of its own: a type checker makes little of
# it, and they run on a GPU, or in Triton's interpreter inside a process that coverage cannot see.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

import nero.kernels.triton.plan as plan

_CONSTRAINED = tl.constexpr(plan.GEOMETRY.index("constrained"))
_NEURONS_INNER = tl.constexpr(plan.GEOMETRY.index("neurons_inner"))
_FAN_IN_INNER = tl.constexpr(plan.GEOMETRY.index("fan_in_inner"))
_STRIDES = tl.constexpr(plan.GEOMETRY.index("w_outer"))

_RMS = tl.constexpr(plan.ADDRESSES.index("rms"))
_RADII = tl.constexpr(plan.ADDRESSES.index("radius"))
_SCALE = tl.constexpr(plan.ADDRESSES.index("scale"))
_STEP = tl.constexpr(plan.ADDRESSES.index("step"))
_ROOT_DEBIAS = tl.constexpr(plan.ADDRESSES.index("root_debias"))
_DEBIAS_M = tl.constexpr(plan.ADDRESSES.index("debias_m"))

_ROOT_BETA = tl.constexpr(plan.NUMBERS.index("root_beta"))
_ROOT_REST = tl.constexpr(plan.NUMBERS.index("root_rest"))
_LOG_BETA = tl.constexpr(plan.NUMBERS.index("log_beta"))
_MOMENTUM = tl.constexpr(plan.NUMBERS.index("momentum"))
_LOG_MOMENTUM = tl.constexpr(plan.NUMBERS.index("log_momentum"))
_LEAST_RMS = tl.constexpr(plan.NUMBERS.index("least_rms"))
_RADIUS = tl.constexpr(plan.NUMBERS.index("radius"))

_ALIGNED_ENTRIES = tl.constexpr(plan.ALIGNED_ENTRIES)
_ALIGNED_BYTES = tl.constexpr(plan.ALIGNED_BYTES)


@triton.jit  # pragma: no cover
def before(
    table,
    shape,
    entry,
    rows,
    here,
    RADIUS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    COUNTED_THERE: tl.constexpr,
):
    """What `turn` needs from memory, asked for before anything waits for the weights.

    Returns the neurons' `rms`, what their step is in units of the learning rate, their radius,
    which of them have one to be projected to (or are centred alone), and the bias corrections.
    """
    rms_at = tl.load(entry + _RMS).to(tl.pointer_type(tl.float32)) + rows
    rms = tl.load(rms_at, mask=here, other=0.0)
    scale = tl.load(tl.load(entry + _SCALE).to(tl.pointer_type(tl.float32))).to(tl.float64)
    radius = tl.zeros_like(rms).to(tl.float64)
    projected = here & (tl.load(shape + _CONSTRAINED) != 0)
    if RADIUS == "number":
        radius += number(table + _RADIUS)
    if RADIUS == "initial":
        radii = tl.load(entry + _RADII).to(tl.pointer_type(tl.float32)) + rows
        radius = tl.load(radii, mask=projected, other=0.0).to(tl.float64)
        projected = projected & (radius > 0)
    r = tl.where(projected, radius, scale) if RADIUS is not None else radius + scale
    if COUNTED_THERE:
        step = tl.load(entry + _STEP).to(tl.pointer_type(tl.float32))
        t = tl.load(step).to(tl.float64)
        root_debias = tl.sqrt(1 - tl.exp(t * number(table + _LOG_BETA)))
        debias_m = root_debias * 0 + 1
        if MOMENTUM:
            debias_m = 1 - tl.exp(t * number(table + _LOG_MOMENTUM))
    else:
        root_debias = number(entry + _ROOT_DEBIAS)
        debias_m = number(entry + _DEBIAS_M)
    return rms, r, radius, projected, root_debias, debias_m


@triton.jit  # pragma: no cover
def turn(
    table,
    entry,
    rows,
    here,
    seen,
    g_norm,  # of g, or with momentum of m
    step,  # the learning rate with its sign, float64
    rms,  # from here on as `before` returns it
    r,
    root_debias,
    debias_m,
    CAP: tl.constexpr,
    PROPAGATE: tl.constexpr,
):
    """Update `rms`; return which neurons turn, and by how much for each unit of g."""
    g_norm = g_norm / debias_m.to(tl.float32)
    # Rounded where the rule rounds: the error of sqrt(beta) in float32 repeats at every step.
    old = (rms * number(table + _ROOT_BETA).to(tl.float32)).to(tl.float64)
    new = (g_norm * number(table + _ROOT_REST).to(tl.float32)).to(tl.float64)
    rms = tl.where(seen | PROPAGATE, tl.sqrt(old * old + new * new).to(tl.float32), rms)
    rms_at = tl.load(entry + _RMS).to(tl.pointer_type(tl.float32)) + rows
    tl.store(rms_at, rms, mask=here & (seen | PROPAGATE))
    step *= r
    turns = here & (seen | PROPAGATE) & (g_norm != 0) & (rms != 0) & (step != 0)
    if CAP:  # in float32, which leaves registers enough
        least = root_debias * number(table + _LEAST_RMS)
        rms = tl.maximum(rms, g_norm * least.to(tl.float32))
    rms_hat = rms.to(tl.float64) / root_debias
    per_g = tl.where(turns, step / tl.where(turns, rms_hat * debias_m, 1.0), 0.0)
    return turns, per_g


@triton.jit  # pragma: no cover
def count_(skipped, here, seen):
    """Add the neurons whose gradient was not finite to the count."""
    missed = tl.sum(tl.where(here & (seen == 0), 1, 0).to(tl.int64), 0)
    if missed > 0:
        tl.atomic_add(skipped, missed)


@triton.jit  # pragma: no cover
def places(
    shape,
    entry,
    rows,
    cols,
    DTYPE: tl.constexpr,
    NAME: tl.constexpr,  # the tensor's column among the addresses
    WHICH: tl.constexpr,  # its place among the strides
    FAN: tl.constexpr,
    FLAT: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Pointers to the entries of a tile."""
    strides = shape + _STRIDES + 4 * WHICH
    if FLAT:
        stride = tl.load(strides + 1)
        neuron = rows * (tl.multiple_of(stride, _ALIGNED_ENTRIES) if ALIGNED else stride)
    else:
        inner, length = tl.load(shape + _NEURONS_INNER), tl.load(shape + _FAN_IN_INNER)
        neuron = (rows // inner) * tl.load(strides) + (rows % inner) * tl.load(strides + 1)
        cols = (cols // length) * tl.load(strides + 2) + (cols % length) * tl.load(strides + 3)
    base = tl.load(entry + NAME).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        base = tl.multiple_of(base, _ALIGNED_BYTES)
    return base + tl.expand_dims(neuron, FAN) + tl.expand_dims(cols, 1 - FAN)


@triton.jit  # pragma: no cover
def average(table, m, g):
    """The running average of the gradient, one step on."""
    momentum = number(table + _MOMENTUM)
    return m * momentum.to(tl.float32) + g * (1 - momentum).to(tl.float32)


@triton.jit  # pragma: no cover
def unit_and_norm(x, FAN: tl.constexpr):
    """`x` over its neurons' peaks, the peaks, and the norms, over the whole range of float32.

    The peak is brought near 1 by a power of 2 first, for its inverse neither to overflow nor to be
    subnormal; a division for each entry would cost several times as many instructions.
    """
    peak = tl.max(tl.abs(x), FAN)
    near = tl.where(peak < 2.0**-64, 2.0**96, tl.where(peak > 2.0**64, 2.0**-96, 1.0))
    unit = x * tl.expand_dims(near, FAN) * tl.expand_dims(1 / nonzero(peak * near), FAN)
    return unit, peak, peak * tl.sqrt(tl.sum(unit * unit, FAN))


@triton.jit  # pragma: no cover
def nonzero(x):
    """`x`, and 1 where it is 0."""
    return tl.where(x == 0, 1.0, x)


@triton.jit  # pragma: no cover
def root(square):
    """The root in float32, which may overflow; where an entry was infinite NaN, as in the rule."""
    return tl.where(square < float("inf"), tl.sqrt(square), float("nan")).to(tl.float32)


@triton.jit  # pragma: no cover
def number(at):
    """A float64 from its bits."""
    return tl.load(at).to(tl.float64, bitcast=True)
