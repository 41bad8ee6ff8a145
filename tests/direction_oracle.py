"""Orthogonal directions in float64 by singular values, from the equations in docs alone.

The polynomials of `nero.directions` are applied to the singular values that a decomposition finds,
so that an optimiser can be followed to the last digits; tests/test_directions.py says how near
the result is to the polar factor.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import minimax
from oracle import OracleTensor

# To the nine digits that the library has.
POLYNOMIALS = [tuple(round(x, 9) for x in p) for p in minimax.schedule()[0]]


def directions_of(d: Tensor, *, center: bool) -> Tensor:
    """(neurons, fan_in): U_i / ||U_i||, zero where a neuron has none."""
    d = d - d.mean(1, keepdim=True) if center else d
    p, s, qt = torch.linalg.svd(d, full_matrices=False)
    s = s / (s**8).sum() ** (1 / 8)
    for polynomial in POLYNOMIALS:
        s = torch.tensor([minimax.value(polynomial, float(x)) for x in s], dtype=torch.float64)
    u = (p * s) @ qt
    return u / u.norm(dim=1, keepdim=True)


class OrthogonalOracle:
    """A tensor under `orthogonal=True`: directions, then the rule without momentum."""

    def __init__(
        self,
        w: Tensor,
        matrices: Sequence[Sequence[Sequence[int]]],
        *,
        momentum: float,
        **rule: Any,
    ) -> None:
        self.matrices, self.momentum = matrices, momentum
        neurons = [neuron for matrix in matrices for neuron in matrix]
        self.rule = OracleTensor(w, neurons, momentum=0.0, **rule)
        self.m = torch.zeros(w.numel(), dtype=torch.float64)

    def step(self, g: Tensor, lr: float) -> None:
        g = g.double().flatten()
        if self.momentum:
            self.m = self.momentum * self.m + (1 - self.momentum) * g
            g = self.momentum * self.m + (1 - self.momentum) * g
        direction = torch.zeros_like(g)
        for matrix in self.matrices:
            index = torch.tensor(matrix)
            direction[index] = directions_of(g[index], center=self.rule.center)
        self.rule.step(direction, lr)

    def weights(self) -> Tensor:
        return self.rule.weights()
