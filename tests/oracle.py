"""Nero in float64, by plain loops over neurons, written from paper.md section 3 alone.

Shares no code with the package, not even the notion of a layout: the tests give it the entries
of each neuron as lists of flat indices.
"""

from collections.abc import Sequence
from math import inf, sqrt

import torch
from torch import Tensor


class OracleTensor:
    """One tensor, its neurons and their running averages."""

    def __init__(
        self,
        w: Tensor,
        neurons: Sequence[Sequence[int]],
        *,
        beta: float,
        center: bool,
        radius: str | float | None,
        momentum: float,
        max_turn: float = inf,
        relative: bool = False,
    ) -> None:
        self.shape = w.shape
        self.w = [float(x) for x in w.flatten()]
        self.neurons = neurons
        self.beta, self.momentum, self.max_turn = beta, momentum, max_turn
        self.relative = relative
        bias = w.ndim < 2
        self.center = center and not bias
        self.radius = None if bias else radius
        self.t = 0
        self.v = [0.0] * len(neurons)
        self.m = [0.0] * len(self.w)
        if bias:
            sigma = sum(abs(x) for x in self.w) / len(self.w)
            self.r = [1.0 if relative else sigma or 0.01] * len(neurons)
            return
        if self.center:
            for entries in neurons:
                self._subtract_mean(entries)
        norms = [self._norm(entries) for entries in neurons]
        if radius is None:
            self.r = [sum(norms) / len(norms)] * len(neurons)
        elif radius == "initial":
            self.r = norms
        else:
            self.r = [1.0 if radius == "unit" else float(radius)] * len(neurons)
        if radius not in (None, "initial"):
            for entries, r in zip(neurons, self.r, strict=True):
                self._set_norm(entries, r)

    def step(self, g: Tensor, lr: float) -> None:
        self.t += 1
        flat = [float(x) for x in g.flatten()]
        if self.momentum:
            mu = self.momentum
            self.m = [mu * m + (1 - mu) * x for m, x in zip(self.m, flat, strict=True)]
            flat = [m / (1 - mu**self.t) for m in self.m]
        for k, entries in enumerate(self.neurons):
            square = sum(flat[i] ** 2 for i in entries)
            self.v[k] = self.beta * self.v[k] + (1 - self.beta) * square
            v_hat = self.v[k] / (1 - self.beta**self.t)
            if v_hat == 0:
                continue
            v_hat = max(v_hat, square / self.max_turn**2)
            r = self.r[k]
            if self.relative and self.radius is None:
                r = max(r, self._norm(entries))
            for i in entries:
                self.w[i] -= lr * r * flat[i] / sqrt(v_hat)
            if self.center:
                self._subtract_mean(entries)
            if self.radius is not None:
                self._set_norm(entries, self.r[k])

    def weights(self) -> Tensor:
        return torch.tensor(self.w, dtype=torch.float64).reshape(self.shape)

    def _subtract_mean(self, entries: Sequence[int]) -> None:
        mean = sum(self.w[i] for i in entries) / len(entries)
        for i in entries:
            self.w[i] -= mean

    def _norm(self, entries: Sequence[int]) -> float:
        return sqrt(sum(self.w[i] ** 2 for i in entries))

    def _set_norm(self, entries: Sequence[int], r: float) -> None:
        norm = self._norm(entries)
        for i in entries:
            self.w[i] *= r / norm
