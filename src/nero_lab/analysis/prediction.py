"""How well a measure of networks predicts a number of theirs, such as the generalisation gap.

Each network has a setting (what was chosen: depth, width, seed and so on), a measure and a target.
All of it is about order: for two networks, does the one with the larger measure have the larger
target?
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

Setting = Mapping[str, Any]
"""Name of a hyperparameter -> its value, the seed among them."""


@dataclass(frozen=True)
class Interval:
    """A number and its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """Return +1 or -1 where the interval excludes 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        """Return "0.31 [0.25, 0.37]"."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def agreement(measure: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return for each pair of networks +1 where both rank it alike, -1 where not, 0 at a tie.

    Args:
        measure: (networks,).
        target: (networks,).

    Returns:
        (networks, networks), symmetric, zeros on the diagonal.
    """
    return np.sign(measure[:, None] - measure) * np.sign(target[:, None] - target)


def kendall_tau(measure: Sequence[float], target: Sequence[float]) -> float:
    """Return Kendall's tau: the mean agreement over all pairs of networks, ties counting 0.

    Args:
        measure: of each network.
        target: of each network, as many; at least 2.
    """
    signs = agreement(np.asarray(measure, float), np.asarray(target, float))
    return float(signs.sum() / (len(signs) * (len(signs) - 1)))


def tau_interval(
    measure: Sequence[float],
    target: Sequence[float],
    *,
    clusters: Sequence[object] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return Kendall's tau with its 95 % bootstrap interval.

    Networks are drawn with replacement; a pair of a network with its own copy is left out, since
    it would pull tau towards 0.

    Args:
        measure: of each network.
        target: of each network.
        clusters: of each network; those of one cluster, such as the seeds of a setting, are drawn
            together. None: each network by itself.
        draws: number of resamples.
        seed: of the drawing.
    """
    signs = agreement(np.asarray(measure, float), np.asarray(target, float))
    number: dict[object, int] = {}
    labels = range(len(signs)) if clusters is None else clusters
    cluster = np.array([number.setdefault(label, len(number)) for label in labels])
    chosen = np.random.default_rng(seed).multinomial(
        len(number), np.full(len(number), 1 / len(number)), size=draws
    )
    weight = chosen[:, cluster].astype(float)
    pairs = weight.sum(1) ** 2 - (weight**2).sum(1)
    taus = ((weight @ signs) * weight).sum(1) / np.maximum(pairs, 1)
    return Interval(kendall_tau(measure, target), *np.percentile(taus, [2.5, 97.5]))


@dataclass(frozen=True)
class Pair:
    """Two networks whose settings differ in one hyperparameter."""

    axis: str
    values: tuple[Any, Any]
    first: int
    second: int
    others: tuple[Any, ...]
    """the values of all the other hyperparameters, in which the two agree"""


def pairs_along(settings: Sequence[Setting], axes: Sequence[str]) -> list[Pair]:
    """Return every pair of networks that differ in exactly one of `axes`.

    Args:
        settings: of each network; the seed is one of the names, and the two have the same.
        axes: the hyperparameters that a pair may differ in.
    """
    found = []
    for axis in axes:
        groups: dict[tuple[Any, ...], dict[Any, int]] = defaultdict(dict)
        for index, setting in enumerate(settings):
            others = tuple(setting[name] for name in sorted(setting) if name != axis)
            groups[others][setting[axis]] = index
        for others, by_value in groups.items():
            for a, b in combinations(sorted(by_value), 2):
                found.append(Pair(axis, (a, b), by_value[a], by_value[b], others))
    return found


def granulated_psi(
    settings: Sequence[Setting],
    measure: Sequence[float],
    target: Sequence[float],
    axes: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Interval, dict[str, Interval]]:
    """Return Jiang's granulated Kendall coefficient, and that of each hyperparameter.

    psi of a hyperparameter is the mean of tau over the groups of networks that differ in nothing
    else; Psi is the mean of psi over the hyperparameters. So a measure that merely follows one of
    them has a psi there and none elsewhere. The intervals are from resampling the groups.

    Args:
        settings: of each network.
        measure: of each network.
        target: of each network.
        axes: the hyperparameters; a seed is none.
        draws: number of resamples.
        seed: of the drawing.

    Raises:
        ValueError: there is no pair of networks that differ in one of the axes alone.

    Source: Y. Jiang et al., "Fantastic generalization measures and where to find them", 2020.
    """
    signs = agreement(np.asarray(measure, float), np.asarray(target, float))
    taus: dict[str, dict[tuple[Any, ...], list[float]]] = {axis: defaultdict(list) for axis in axes}
    for pair in pairs_along(settings, axes):
        taus[pair.axis][pair.others].append(signs[pair.first, pair.second])
    generator = np.random.default_rng(seed)
    values, resampled = [], []
    for axis in axes:
        of_groups = np.array([np.mean(group) for group in taus[axis].values()])
        if not len(of_groups):
            raise ValueError(f"no two networks differ in {axis} alone")
        chosen = generator.integers(len(of_groups), size=(draws, len(of_groups)))
        values.append(of_groups.mean())
        resampled.append(of_groups[chosen].mean(1))
    psi = {
        axis: Interval(float(value), *np.percentile(some, [2.5, 97.5]))
        for axis, value, some in zip(axes, values, resampled, strict=True)
    }
    whole = Interval(float(np.mean(values)), *np.percentile(np.mean(resampled, 0), [2.5, 97.5]))
    return whole, psi


@dataclass(frozen=True)
class SignError:
    """How often a measure is wrong about the direction of a change, in one environment."""

    axis: str
    values: tuple[Any, Any]
    error: Interval
    """the fraction of pairs that it gets wrong; a measure that does not change is half wrong"""
    pairs: int


def sign_errors(
    settings: Sequence[Setting],
    measure: Sequence[float],
    target: Sequence[float],
    axes: Sequence[str],
    *,
    noise: float,
    least: int = 10,
    draws: int = 1000,
    seed: int = 0,
) -> list[SignError]:
    """Return the sign error in each environment, the worst first.

    An environment is the change of one hyperparameter from one value to another, over all values
    of the others. Pairs whose targets differ by no more than `noise` are left out: their
    direction is not known. A robust measure is right in its worst environment.

    Args:
        settings: of each network.
        measure: of each network.
        target: of each network.
        axes: the hyperparameters.
        noise: how much targets may differ by chance.
        least: environments with fewer pairs are left out.
        draws: number of resamples of the pairs.
        seed: of the drawing.

    Source: G. K. Dziugaite et al., "In search of robust measures of generalization", 2020.
    """
    targets = np.asarray(target, float)
    signs = agreement(np.asarray(measure, float), targets)
    wrong: dict[tuple[str, tuple[Any, Any]], list[float]] = defaultdict(list)
    for pair in pairs_along(settings, axes):
        if abs(targets[pair.first] - targets[pair.second]) > noise:
            wrong[pair.axis, pair.values].append((1 - signs[pair.first, pair.second]) / 2)
    found = []
    for (axis, values), errors in wrong.items():
        if len(errors) >= least:
            interval = bootstrap_mean(errors, draws=draws, seed=seed)
            found.append(SignError(axis, values, interval, len(errors)))
    return sorted(found, key=lambda each: -each.error.value)


def bootstrap_mean(values: Sequence[float], *, draws: int = 1000, seed: int = 0) -> Interval:
    """Return the mean of at least one number with its 95 % bootstrap interval."""
    known = np.asarray(values, float)
    chosen = np.random.default_rng(seed).integers(len(known), size=(draws, len(known)))
    return Interval(float(known.mean()), *np.percentile(known[chosen].mean(1), [2.5, 97.5]))
