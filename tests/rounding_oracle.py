"""Noise and stochastic rounding in Python's exact integers and fractions.

Written from the definition in `nero.rounding`'s docstring; shares no code with it.
"""

import math
from fractions import Fraction

WORD = 2**32
# Bits of the significand, smallest exponent of a normal number, largest finite number.
FORMATS = {
    "bfloat16": (8, -126, (2 - Fraction(1, 2**7)) * 2**127),
    "float16": (11, -14, (2 - Fraction(1, 2**10)) * 2**15),
}


def bits(seed: int, step: int, index: int) -> int:
    """The 32 bits of noise of an entry."""
    first = _mix(seed ^ _mix(step))
    second = _mix((first + seed) % WORD)
    x = (index % WORD) ^ first
    x ^= x >> 16
    x = x * 0x85EBCA6B % WORD
    x ^= (second + 0x9E3779B9 * (index // WORD)) % WORD
    x ^= x >> 13
    x = x * 0xC2B2AE35 % WORD
    return x ^ x >> 16


def rounded(x: float, dtype: str, noise: int) -> float:
    """A finite `x`, no larger than the largest number of the format, rounded by 32 bits of noise.

    Goes up from the lower neighbour (of the magnitude) where the distance to it, in units of that
    between the neighbours, and the noise's top bits as a fraction come to 1 or more.
    """
    significand, smallest, largest = FORMATS[dtype]
    magnitude = abs(Fraction(x))
    assert magnitude <= largest
    exponent = max(math.frexp(x)[1] - 1, smallest)
    spacing = Fraction(2) ** (exponent - significand + 1)
    # Where the format has exponents enough, float32 itself has no more than these bits to add.
    top = 24 if dtype == "float16" and exponent == smallest and magnitude < 2.0**-14 else None
    top = top or 24 - significand
    units = magnitude / spacing
    floor = units.numerator // units.denominator
    up = units - floor + Fraction(noise >> (32 - top), 2**top) >= 1
    return math.copysign(float((floor + up) * spacing), x)


def _mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x85EBCA6B % WORD
    x ^= x >> 13
    x = x * 0xC2B2AE35 % WORD
    return x ^ x >> 16
