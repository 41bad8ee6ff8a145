"""Stochastic rounding of float32 to bfloat16 and float16, by noise that is a function of place.

Where weights are kept in 16 bits, the nearest number to `w + dw` is often w itself and the weight
stands still. Stochastic rounding goes to one of the two neighbours at random, to the nearer one
more often, so that the mean of the result is what was rounded and small steps add up.

**The noise.** Nothing is drawn from a generator: the noise of an entry is a hash of its
parameter's seed s, the parameter's step count t and the entry's row-major index i in the whole
parameter. So it is the same whichever path rounds, on however many threads, however the parameter
is cut into shards, and after a resume. All arithmetic is modulo 2^32, `>>` shifts in zeros, and

    mix(x):      x ^= x >> 16;  x *= 0x85ebca6b;  x ^= x >> 13;  x *= 0xc2b2ae35;  x ^= x >> 16
    keys:        k0 = mix(s ^ mix(t));  k1 = mix(k0 + s)
    bits(i):     x  = (i mod 2^32) ^ k0
                 x ^= x >> 16;  x *= 0x85ebca6b;  x ^= k1 + 0x9e3779b9 * (i >> 32)
                 x ^= x >> 13;  x *= 0xc2b2ae35;  x ^= x >> 16

Step counts are kept in float32, which ends at 2^24: later steps repeat that one's noise.

**The rounding.** Sign and magnitude are apart. With d mantissa bits too many (16 for bfloat16, 13
for float16), the top d bits of `bits(i)` are added to the magnitude's bits as an integer, and the
last d bits of the sum are cleared: the chance to go up is the distance to the lower neighbour over
that of the two, exactly. Below 2^-14, where float16's numbers lie 2^-24 apart, |x| 2^24 goes up
from its floor where the rest plus the top 24 bits of `bits(i)` over 2^24 is at least 1: exact too
for |x| of 2^-25 and more, and to within 2^-24 of the chance below that. What either format holds
stays as it is, and with it every neuron that did not turn. Numbers above the largest finite one,
infinities and NaN are rounded to nearest.

Source:
    M. Croci et al., "Stochastic rounding: implementation, error analysis and applications", Royal
    Society Open Science 9, 2022 (its mode 1). `mix` is the finaliser of A. Appleby's MurmurHash3,
    which is in the public domain, and `bits` is the same with a second key inside.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

ROUNDINGS = ("nearest", "stochastic")
SEEDS = 2**32

MASK = 2**32 - 1
FIRST, SECOND, GOLDEN = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9
# Bits of float32's mantissa that the format does not keep.
DROPPED = {torch.bfloat16: 16, torch.float16: 13}
# float16's smallest normal number, how many of its numbers lie below, and the noise's resolution.
SMALLEST_NORMAL, SUBNORMAL_SCALE, NOISE_BITS = 2.0**-14, 2.0**24, 24

Word = TypeVar("Word", int, Tensor)
Keys = tuple[int, int] | tuple[Tensor, Tensor]


class Place(NamedTuple):
    """Where the entries of a view lie in the whole parameter, for their noise.

    Entry (a, b, ...) of the view has the row-major index `offset + a strides[0] + b strides[1] +
    ...` in the whole parameter. It has nothing to do with where the view lies in memory.
    """

    offset: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, whole: tuple[int, ...], offsets: tuple[int, ...] | None = None) -> Place:
        """The place of a rectangular shard of a parameter, or of all of it.

        For a DTensor: `whole` is the shape of the DTensor and `offsets` what
        `torch.distributed.tensor._utils.compute_local_shape_and_global_offset` gives, so that the
        noise does not depend on the mesh. Where the layout splits an axis into blocks, both are
        those of the split shape.

        Examples:
            >>> from nero.rounding import Place
            >>> Place.of((6, 4)), Place.of((6, 4), (2, 0))  # all rows; rows from the third on
            (Place(offset=0, strides=(4, 1)), Place(offset=8, strides=(4, 1)))
        """
        strides = tuple(math.prod(whole[axis + 1 :]) for axis in range(len(whole)))
        return cls(sum(a * b for a, b in zip(offsets or (), strides, strict=False)), strides)

    def piece(self, index: tuple[slice, ...]) -> Place:
        """The place of a piece of the view, cut by `NeuronLayout.pieces`."""
        starts = [cut.start or 0 for cut in index]
        skipped = sum(a * b for a, b in zip(starts, self.strides, strict=False))
        return Place(self.offset + skipped, self.strides)


def is_stochastic(rounding: str, dtype: torch.dtype) -> bool:
    """Whether weights of this dtype are rounded stochastically: where they are kept in 16 bits."""
    return rounding == "stochastic" and dtype in DROPPED


def parameter_seed(seed: int, group: int, index: int) -> int:
    """The seed of the index-th parameter of a group, from the seed that the user gave.

    Examples:
        >>> from nero.rounding import parameter_seed
        >>> parameter_seed(0, 0, 0), parameter_seed(0, 0, 1)
        (2726825882, 664193924)
    """
    return _mix(_mix(_mix(seed) + group + 1 & MASK) + index + 1 & MASK)


def noise_keys(seed: int | Tensor, step: float | Tensor) -> Keys:
    """The two keys of a parameter's noise at a step, in [0, 2^32).

    Args:
        seed: the parameter's seed, in [0, 2^32); as a tensor int64.
        step: its step count, at least 1; a tensor of any dtype, or numbers, as the seed.
    """
    if isinstance(seed, Tensor) or isinstance(step, Tensor):
        s, t = (torch.as_tensor(x).to(torch.int64) for x in (seed, step))
        s = s.to(t.device)
        first = _mix(s ^ _mix(t))
        return first, _mix(first + s & MASK)
    first = _mix(int(seed) ^ _mix(int(step)))
    return first, _mix(first + int(seed) & MASK)


def noise_bits(shape: tuple[int, ...], place: Place, keys: Keys, device: torch.device) -> Tensor:
    """The noise of a view's entries: all 32 bits of an int32.

    Args:
        shape: the shape of the view.
        place: where it lies in the whole parameter.
        keys: `noise_keys`; tensors broadcast against the view, for stacks.
        device: where the noise is wanted.

    Returns:
        int32, of `shape` and the keys broadcast.
    """
    low, high = _index(shape, place, device)
    first, second = (_word(k) if isinstance(k, Tensor) else _signed(k) for k in keys)
    x = _shift_xor_(low ^ first, 16).mul_(_signed(FIRST))
    x.bitwise_xor_(second if high is None else second + high * _signed(GOLDEN))
    x = _shift_xor_(x, 13).mul_(_signed(SECOND))
    return _shift_xor_(x, 16)


def round_stochastically(x: Tensor, dtype: torch.dtype, bits: Tensor) -> Tensor:
    """`x` rounded to one of its two neighbours in `dtype`, by the noise `bits`.

    Args:
        x: float32, any strides.
        dtype: torch.bfloat16 or torch.float16.
        bits: int32 of the same shape, uniform; its top bits are used.

    Returns:
        A tensor of `dtype`.

    Examples:
        >>> import torch
        >>> from nero.rounding import Place, noise_bits, noise_keys, round_stochastically
        >>> x = torch.full((10000,), 1 + 2**-10)  # an eighth of the way from 1 to 1 + 2**-7
        >>> bits = noise_bits((10000,), Place.of((10000,)), noise_keys(0, 1), x.device)
        >>> round_stochastically(x, torch.bfloat16, bits).unique(return_counts=True)
        (tensor([1.0000, 1.0078], dtype=torch.bfloat16), tensor([8731, 1269]))
    """
    dropped = DROPPED[dtype]
    added = _logical_shift(bits, 32 - dropped).add_(x.view(torch.int32))
    y = added.bitwise_and_(-(1 << dropped)).view(torch.float32)
    if dtype == torch.float16:
        y = torch.where(x.abs() < SMALLEST_NORMAL, _subnormal(x, bits), y)
    return torch.where(x.abs() <= torch.finfo(dtype).max, y, x).to(dtype)


def _subnormal(x: Tensor, bits: Tensor) -> Tensor:
    """`x` rounded to a multiple of 2^-24; every operation is exact."""
    rest = x.abs().mul_(SUBNORMAL_SCALE)
    floor = rest.floor()
    needed = _logical_shift(bits, 32 - NOISE_BITS).neg_().add_(2**NOISE_BITS)
    up = rest.sub_(floor).mul_(2**NOISE_BITS) >= needed
    return floor.add_(up).div_(SUBNORMAL_SCALE).copysign_(x)


def _index(
    shape: tuple[int, ...], place: Place, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The entries' indices: the low 32 bits, and the rest where there is any; int32."""
    last = place.offset + sum((n - 1) * s for n, s in zip(shape, place.strides, strict=True))
    wide = last > MASK
    index = torch.full((), place.offset, dtype=torch.int64, device=device)
    if not wide:
        index = _low(index)
    for axis, (size, stride) in enumerate(zip(shape, place.strides, strict=True)):
        along = torch.arange(size, dtype=torch.int64, device=device) * stride
        along = along if wide else _low(along)
        index = index + along.view(size, *[1] * (len(shape) - axis - 1))
    return (_low(index), (index >> 32).to(torch.int32)) if wide else (index, None)


def _low(x: Tensor) -> Tensor:
    return _word(x & MASK)


def _mix(x: Word) -> Word:
    """MurmurHash3's finaliser of a number in [0, 2^32), in integers or int64."""
    x = (x ^ x >> 16) * FIRST & MASK
    x = (x ^ x >> 13) * SECOND & MASK
    return x ^ x >> 16


def _word(x: Tensor) -> Tensor:
    return _signed(x).to(torch.int32)


def _signed(x: Word) -> Word:
    """A number in [0, 2^32) as an int32 holds its bits."""
    return (x ^ 2**31) - 2**31


def _logical_shift(x: Tensor, by: int) -> Tensor:
    """An int32 shifted right with zeros coming in."""
    return (x >> by).bitwise_and_((1 << 32 - by) - 1)


def _shift_xor_(x: Tensor, by: int) -> Tensor:
    return x.bitwise_xor_(_logical_shift(x, by))
