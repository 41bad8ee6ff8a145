"""The CUDA kernel, in Triton: a tile of neurons per program, for all the tensors of a launch.

The symbols are those of `nero.rule`, which it follows in float32 where the rows of a tile stay in
registers: one read of w and g, one write of w.

Longer rows are read twice. The first time float64 sums of g^2, g, w, w^2 and wg are taken, from
which the norm of the gradient follows, and with it mean and norm of `w - dw` before any of it is
computed; the second time it is written. In float64 the square of no float32 overflows or
underflows, what cancels in `sum((w - dw - mean)^2)` is 1e-16 of its terms, and no second centring
is needed, since the mean is not rounded to float32.

Numbers of which there is one per neuron are float64 throughout: they cost nothing.
"""
# Triton reads these functions as source, in a language of its own: a type checker makes little of
# it, and they run on a GPU, or in Triton's interpreter inside a process that coverage cannot see.
# ruff: noqa: SIM102 - what is decided when compiling, and what is decided when running
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

import nero.kernels.triton.plan as plan
from nero.geometry import NOISE_ULPS
from nero.kernels.triton.tiles import (
    average,
    before,
    count_,
    nonzero,
    number,
    places,
    root,
    turn,
    unit_and_norm,
)

_KIND = tl.constexpr(plan.GEOMETRY.index("kind"))
_FIRST_PROGRAM = tl.constexpr(plan.GEOMETRY.index("first_program"))
_NEURONS = tl.constexpr(plan.GEOMETRY.index("neurons"))
_FAN_IN = tl.constexpr(plan.GEOMETRY.index("fan_in"))
_GEOMETRY = tl.constexpr(len(plan.GEOMETRY))

_W = tl.constexpr(plan.ADDRESSES.index("w"))
_G = tl.constexpr(plan.ADDRESSES.index("g"))
_M = tl.constexpr(plan.ADDRESSES.index("exp_avg"))
_ADDRESSES = tl.constexpr(len(plan.ADDRESSES))

_LR = tl.constexpr(plan.NUMBERS.index("lr"))
_SIGN = tl.constexpr(plan.NUMBERS.index("sign"))
_NUMBERS = tl.constexpr(len(plan.NUMBERS))

_ONE = tl.constexpr(1)
_ENTRIES = tl.constexpr(plan.ENTRIES)
_FIRST_ROW = tl.constexpr(plan.FIRST_ROW)
_LAST_ROW = tl.constexpr(plan.LAST_ROW)
_LONG_ROW = tl.constexpr(plan.LONG_ROW)
_SHORT_STRIDED = tl.constexpr(plan.SHORT_STRIDED)
_LONG_STRIDED = tl.constexpr(plan.LONG_STRIDED)
_TILE = tl.constexpr(plan.TILE)
_CHUNK = tl.constexpr(plan.CHUNK)
_NEIGHBOURS = tl.constexpr(plan.NEIGHBOURS)
_STRIDED_COLUMNS = tl.constexpr(plan.SHORT_STRIDED_COLUMNS)
_ENTRIES_TILE = tl.constexpr(plan.ENTRIES_TILE)
_ROWS = tl.constexpr(plan.ROWS)
_WARP_TILE = tl.constexpr(plan.PER_THREAD * plan.WARP)
_WARP_ROW = tl.constexpr((plan.PER_THREAD * plan.WARP).bit_length() - 1)
_ALIGNED_ENTRIES = tl.constexpr(plan.ALIGNED_ENTRIES)
_NOISE = tl.constexpr(NOISE_ULPS * 2.0**-23)


@triton.jit  # pragma: no cover
def nero_kernel(
    table,  # int64: NUMBERS (the bits of float64), then ADDRESSES for each tensor
    geometry,  # int64, (tensors, GEOMETRY)
    owner,  # int32, the tensor of each program
    skipped,  # int64, 0-d: how many neurons had a gradient that was not finite; added to
    lr,  # the learning rate where it is a tensor on the device; otherwise anything
    W: tl.constexpr,  # the dtype of the weights
    G: tl.constexpr,  # the dtype of the gradients
    CENTER: tl.constexpr,
    RADIUS: tl.constexpr,  # None, "number" or "initial"
    MOMENTUM: tl.constexpr,
    CAP: tl.constexpr,
    PROPAGATE: tl.constexpr,
    LR_TENSOR: tl.constexpr,
    COUNTED_THERE: tl.constexpr,  # whether step counts are read on the device
    ALIGNED: tl.constexpr,  # whether all rows are read 16 bytes at a time
    KINDS: tl.constexpr,  # bit k: some tensor has tiles of kind k; the others are not compiled
):
    """Update the tile of neurons that this program owns."""
    program = tl.program_id(0)
    tensor = tl.load(owner + program).to(tl.int64)
    shape = geometry + tensor * _GEOMETRY
    entry = table + _NUMBERS + tensor * _ADDRESSES
    tile = program - tl.load(shape + _FIRST_PROGRAM)
    kind = tl.load(shape + _KIND)
    step = number(table + _LR) if not LR_TENSOR else tl.load(lr).to(tl.float64)
    step *= number(table + _SIGN)
    PROJECT: tl.constexpr = CENTER or RADIUS is not None
    # fmt: off
    if (_ONE << _ENTRIES) & KINDS:
        if kind == _ENTRIES:
            _one_pass(
                table, shape, entry, tile, skipped, step,
                W, G, False, None, MOMENTUM, CAP, PROPAGATE, False, COUNTED_THERE,
                _ENTRIES_TILE, 1, 1, True, False,
            )
    for k in tl.static_range(_FIRST_ROW, _LAST_ROW + 1):
        if (_ONE << k) & KINDS:
            if kind == k:
                _one_pass(
                    table, shape, entry, tile, skipped, step,
                    W, G, CENTER, RADIUS, MOMENTUM, CAP, PROPAGATE, PROJECT, COUNTED_THERE,
                    _ROWS if _WARP_TILE >> k > _ROWS else 1 if k > _WARP_ROW else _WARP_TILE >> k,
                    _ONE << k, 1, True, ALIGNED,
                )
    if (_ONE << _LONG_ROW) & KINDS:
        if kind == _LONG_ROW:
            _two_pass(
                table, shape, entry, tile, skipped, step,
                W, G, CENTER, RADIUS, MOMENTUM, CAP, PROPAGATE, PROJECT, COUNTED_THERE,
                1, _CHUNK, 1, True,
            )
    if (_ONE << _SHORT_STRIDED) & KINDS:
        if kind == _SHORT_STRIDED:
            _one_pass(
                table, shape, entry, tile, skipped, step,
                W, G, CENTER, RADIUS, MOMENTUM, CAP, PROPAGATE, PROJECT, COUNTED_THERE,
                _TILE // _STRIDED_COLUMNS, _STRIDED_COLUMNS, 0, False, False,
            )
    if (_ONE << _LONG_STRIDED) & KINDS:
        if kind == _LONG_STRIDED:
            _two_pass(
                table, shape, entry, tile, skipped, step,
                W, G, CENTER, RADIUS, MOMENTUM, CAP, PROPAGATE, PROJECT, COUNTED_THERE,
                _NEIGHBOURS, _CHUNK // _NEIGHBOURS, 0, False,
            )
    # fmt: on


@triton.jit  # pragma: no cover
def _one_pass(
    table,
    shape,
    entry,
    tile,
    skipped,
    step,
    W: tl.constexpr,
    G: tl.constexpr,
    CENTER: tl.constexpr,
    RADIUS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    CAP: tl.constexpr,
    PROPAGATE: tl.constexpr,
    PROJECT: tl.constexpr,
    COUNTED_THERE: tl.constexpr,
    ROWS: tl.constexpr,  # neurons in the tile
    COLS: tl.constexpr,  # at least the fan-in
    FAN: tl.constexpr,  # the tile's axis that is fan-in: lanes that are neighbours lie along axis 1
    FLAT: tl.constexpr,  # the entries of a neuron are adjacent, and the neurons one stride apart
    ALIGNED: tl.constexpr,
):
    """A tile of neurons that fits in registers; `w` and `g` are read once."""
    fan_in = tl.load(shape + _FAN_IN)
    if ALIGNED:
        fan_in = tl.multiple_of(fan_in, _ALIGNED_ENTRIES)
    rows = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = rows < tl.load(shape + _NEURONS)
    cols = tl.arange(0, COLS)
    mask = tl.expand_dims(here, FAN) & tl.expand_dims(cols < fan_in, 1 - FAN)
    w_at = places(shape, entry, rows, cols, W, _W, 0, FAN, FLAT, ALIGNED)
    g_at = places(shape, entry, rows, cols, G, _G, 1, FAN, FLAT, ALIGNED)
    g = tl.load(g_at, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(w_at, mask=mask, other=0.0).to(tl.float32)
    rms, r, radius, projected, root_debias, debias_m = before(
        table, shape, entry, rows, here, RADIUS, MOMENTUM, COUNTED_THERE
    )
    unit, peak, g_norm = unit_and_norm(g, FAN)
    seen = tl.abs(g_norm) < float("inf")
    count_(skipped, here, seen)
    if MOMENTUM:
        m_at = places(shape, entry, rows, cols, tl.float32, _M, 2, FAN, FLAT, ALIGNED)
        m = tl.load(m_at, mask=mask, other=0.0)
        m = average(table, m, g)
        tl.store(m_at, m, mask=mask & tl.expand_dims(seen | PROPAGATE, FAN))
        unit, peak, g_norm = unit_and_norm(m, FAN)
    turns, per_g = turn(
        table, entry, rows, here, seen, g_norm, step, rms, r, root_debias, debias_m, CAP, PROPAGATE
    )
    w -= unit * tl.expand_dims((per_g * peak).to(tl.float32), FAN)
    if PROJECT:
        w = _project(w, mask, fan_in, turns & projected, radius, CENTER, RADIUS, FAN)
    tl.store(w_at, w.to(W), mask=mask & tl.expand_dims(turns, FAN))


@triton.jit  # pragma: no cover
def _project(
    x, mask, fan_in, where, radius, CENTER: tl.constexpr, RADIUS: tl.constexpr, FAN: tl.constexpr
):
    """`nero.geometry.axis_project_` of the neurons in `where`; radius None is "leave the norm"."""
    count = fan_in.to(tl.float32)
    mean = tl.zeros_like(radius).to(tl.float32)
    x = tl.where(mask, x, 0.0)
    if CENTER:
        mean = tl.sum(x, FAN) / count
        where = where & (tl.abs(mean) < float("inf"))
        mean = tl.where(where & (mean != 0), mean, 0.0)
        x = tl.where(mask, x - tl.expand_dims(mean, FAN), 0.0)
    _, _, norm = unit_and_norm(x, FAN)
    noise = tl.sqrt(count) * tl.abs(mean) * _NOISE
    done = where & (norm < float("inf")) & (norm > noise)
    if RADIUS is not None:
        x *= tl.expand_dims(tl.where(done, radius.to(tl.float32) / nonzero(norm), 1.0), FAN)
    if CENTER:
        x -= tl.expand_dims(tl.where(done, tl.sum(x, FAN) / count, 0 - mean), FAN)
    return x


@triton.jit  # pragma: no cover
def _two_pass(
    table,
    shape,
    entry,
    tile,
    skipped,
    step,
    W: tl.constexpr,
    G: tl.constexpr,
    CENTER: tl.constexpr,
    RADIUS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    CAP: tl.constexpr,
    PROPAGATE: tl.constexpr,
    PROJECT: tl.constexpr,
    COUNTED_THERE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,  # how much of a row is held at a time
    FAN: tl.constexpr,
    FLAT: tl.constexpr,
):
    """A tile of neurons longer than registers hold: sums first, then the weights."""
    fan_in = tl.load(shape + _FAN_IN)
    rows = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = rows < tl.load(shape + _NEURONS)
    rms, r, radius, projected, root_debias, debias_m = before(
        table, shape, entry, rows, here, RADIUS, MOMENTUM, COUNTED_THERE
    )
    SHAPE: tl.constexpr = (ROWS, COLS) if FAN == 1 else (COLS, ROWS)
    gg = tl.zeros(SHAPE, tl.float64)  # of the gradient as it came
    aa = tl.zeros(SHAPE, tl.float64)  # of what the neuron turns by: g, or with momentum m
    a1 = tl.zeros(SHAPE, tl.float64)
    w1 = tl.zeros(SHAPE, tl.float64)
    ww = tl.zeros(SHAPE, tl.float64)
    wa = tl.zeros(SHAPE, tl.float64)
    for start in range(0, fan_in, COLS):
        cols = start + tl.arange(0, COLS)
        mask = tl.expand_dims(here, FAN) & tl.expand_dims(cols < fan_in, 1 - FAN)
        g_at = places(shape, entry, rows, cols, G, _G, 1, FAN, FLAT, False)
        g = tl.load(g_at, mask=mask, other=0.0).to(tl.float32)
        a = g.to(tl.float64)
        if MOMENTUM:
            gg += a * a
            m_at = places(shape, entry, rows, cols, tl.float32, _M, 2, FAN, FLAT, False)
            a = average(table, tl.load(m_at, mask=mask, other=0.0), g).to(tl.float64)
        aa += a * a
        if PROJECT:
            w_at = places(shape, entry, rows, cols, W, _W, 0, FAN, FLAT, False)
            w = tl.load(w_at, mask=mask, other=0.0).to(tl.float64)
            a1 += a
            w1 += w
            ww += w * w
            wa += w * a
    norm = root(tl.sum(aa, FAN))
    seen = tl.abs(root(tl.sum(gg, FAN)) if MOMENTUM else norm) < float("inf")
    count_(skipped, here, seen)
    turns, per_g = turn(
        table, entry, rows, here, seen, norm, step, rms, r, root_debias, debias_m, CAP, PROPAGATE
    )
    mean = tl.zeros_like(per_g)
    scale = tl.zeros_like(per_g) + 1
    if PROJECT:
        count = fan_in.to(tl.float64)
        square = tl.sum(ww, FAN) - 2 * per_g * tl.sum(wa, FAN) + per_g * per_g * tl.sum(aa, FAN)
        done = turns & projected
        if CENTER:
            mean = (tl.sum(w1, FAN) - per_g * tl.sum(a1, FAN)) / count
            square -= count * mean * mean
        norm = root(tl.maximum(square, 0.0)).to(tl.float64)
        done = done & (norm < float("inf")) & (norm > tl.sqrt(count) * tl.abs(mean) * _NOISE)
        mean = tl.where(done, mean, 0.0)
        if RADIUS is not None:
            scale = tl.where(done, radius / nonzero(norm), 1.0)
    for start in range(0, fan_in, COLS):
        cols = start + tl.arange(0, COLS)
        mask = tl.expand_dims(here, FAN) & tl.expand_dims(cols < fan_in, 1 - FAN)
        w_at = places(shape, entry, rows, cols, W, _W, 0, FAN, FLAT, False)
        g_at = places(shape, entry, rows, cols, G, _G, 1, FAN, FLAT, False)
        w = tl.load(w_at, mask=mask, other=0.0).to(tl.float64)
        a = tl.load(g_at, mask=mask, other=0.0).to(tl.float32)
        if MOMENTUM:
            m_at = places(shape, entry, rows, cols, tl.float32, _M, 2, FAN, FLAT, False)
            a = average(table, tl.load(m_at, mask=mask, other=0.0), a)
            tl.store(m_at, a, mask=mask & tl.expand_dims(seen | PROPAGATE, FAN))
        w = w - a.to(tl.float64) * tl.expand_dims(per_g, FAN) - tl.expand_dims(mean, FAN)
        w *= tl.expand_dims(scale, FAN)
        tl.store(w_at, w.to(tl.float32).to(W), mask=mask & tl.expand_dims(turns, FAN))
