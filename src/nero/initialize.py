r"""Initial weights of plain networks: balanced neurons that keep the signal's size at any depth.

A balanced neuron, of mean 0, cannot see the mean of its inputs, and behind an activation such as
ReLU much of the signal is mean: with random balanced weights each layer loses a fifth of it. So
the units of a layer come in pairs with pre-activations a and -a, of which f(a) - f(-a) holds the
signal without its mean ("looks linear", Balduzzi et al., 2017, arXiv:1702.08591). For ReLU, GELU
and SiLU it is a itself. With Q of orthonormal rows,

    hidden layer    [[P, -P'], [-P, P']],   P = g/2 Q + R,  P' = g/2 Q - R
    first layer     [A; -A],                rows of A centred, orthonormal as far as they can be
    last layer      [V, -V] / sqrt(2)

Each row has mean 0. The next pre-activations are g/2 Q (f(a) - f(-a)) + R (f(a) + f(-a)), where
R, of centred rows, fills the neuron's norm up to 1 where g is below sqrt(2), as for tanh. A gain
above sqrt(2) takes neurons of norm g / sqrt(2): plain ReLU takes norm sqrt(2), ReLU x sqrt(2)
takes 1. Unit neurons cannot carry ReLU's gain: behind plain ReLU they lose half of the power in
each layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# The variance of the pre-activations that gains keep. For ReLU, GELU and SiLU none matters; tanh
# is nearly linear there, so that gradients keep their size too.
VARIANCE = 0.05
POINTS = 4096


class Gain(NamedTuple):
    """How a hidden layer keeps the size of the signal behind an activation.

    Attributes:
        gain: g above.
        norm: of each neuron, at least 1.
    """

    gain: float
    norm: float


def gain_of(function: Callable[[Tensor], Tensor]) -> Gain:
    """The gain behind an elementwise activation, from its values on normal pre-activations.

    Raises:
        ValueError: f(a) - f(-a) is zero or not finite, so that no gain keeps the signal.

    Examples:
        >>> import torch
        >>> from nero.initialize import gain_of
        >>> round(gain_of(torch.relu).norm, 4), round(gain_of(torch.tanh).gain, 2)
        (1.4142, 1.05)
    """
    quantiles = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    a = math.sqrt(VARIANCE) * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)
    plus, minus = function(a), function(-a)
    odd = float((plus - minus).square().mean() / a.square().mean())
    even = float((plus + minus).var() / a.square().mean())
    if not (math.isfinite(odd) and math.isfinite(even) and odd > 1e-6):
        raise ValueError("the activation is even or not finite: no weights keep the signal's size")
    # g^2/4 odd + rho^2 even = 1, with R's norm rho from g^2/2 + 2 rho^2 = 1; or rho = 0.
    square = 4 * (1 - even / 2) / (odd - even) if odd > even else math.inf
    if 0 < square <= 2:
        return Gain(math.sqrt(square), 1.0)
    return Gain(2 / math.sqrt(odd), math.sqrt(2 / odd))


def first_layer(rows: int, columns: int, *, generator: torch.Generator | None = None) -> Tensor:
    """[A; -A], `(rows, columns)` float64, of centred rows of norm 1; an odd one is by itself.

    Rows of fewer than three entries, which could not turn if centred, are not centred.
    """
    center = columns > 2
    half = _rows(rows // 2 + rows % 2, columns, center=center, generator=generator)
    return torch.cat([half[: rows // 2], -half[: rows // 2], half[rows // 2 :]])


def hidden_layer(
    rows: int, pairs: int, columns: int, gain: Gain, *, generator: torch.Generator | None = None
) -> Tensor:
    """[[P, -P'], [-P, P']], `(rows, columns)` float64, of centred rows of norm `gain.norm`.

    Args:
        rows: output units; an odd one is a neuron by itself.
        pairs: of input units, the first `pairs` columns and the second; the rest get weight 0.
        columns: input units.
        gain: that of the activation before the layer.
        generator: of the random numbers; None for torch's own.

    Examples:
        >>> import torch
        >>> from nero.initialize import gain_of, hidden_layer
        >>> w = hidden_layer(6, 4, 8, gain_of(lambda x: torch.relu(x) * 2**0.5))
        >>> bool(w.sum(1).abs().max() < 1e-12), bool((w.norm(dim=1) - 1).abs().max() < 1e-12)
        (True, True)
    """
    half = rows // 2 + rows % 2
    q = gain.gain / 2 * _rows(half, pairs, center=False, generator=generator)
    rest = math.sqrt(max(0.0, (gain.norm**2 - gain.gain**2 / 2) / 2))
    r = torch.zeros_like(q)
    if rest > 0 and pairs > 1:
        r = rest * _rows(half, pairs, center=True, generator=generator)
    top = torch.cat([q + r, r - q, q.new_zeros(half, columns - 2 * pairs)], 1)
    top *= gain.norm / top.norm(dim=1, keepdim=True)
    return torch.cat([top[: rows // 2], -top[: rows // 2], top[rows // 2 :]])


def last_layer(
    rows: int, pairs: int, columns: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """[V, -V] / sqrt(2), `(rows, columns)` float64, of rows of norm 1; as `hidden_layer`."""
    v = _rows(rows, pairs, center=False, generator=generator) / math.sqrt(2)
    return torch.cat([v, -v, v.new_zeros(rows, columns - 2 * pairs)], 1)


def _rows(rows: int, columns: int, *, center: bool, generator: torch.Generator | None) -> Tensor:
    """Random rows of norm 1, orthogonal to each other in blocks as large as there can be."""
    largest = columns - center
    blocks = []
    for start in range(0, rows, largest):
        count = min(largest, rows - start)
        x = torch.randn(columns, count, dtype=torch.float64, generator=generator)
        if center:
            x -= x.mean(0)
        q, r = torch.linalg.qr(x)
        blocks.append((q * r.diagonal().sign()).T)
    return torch.cat(blocks) if blocks else torch.zeros(0, columns, dtype=torch.float64)
