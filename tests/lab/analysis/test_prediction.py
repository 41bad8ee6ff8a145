"""Rank statistics against scipy, hand-made grids, and the coverage of their intervals."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from nero_lab.analysis.prediction import (
    Interval,
    bootstrap_mean,
    granulated_psi,
    kendall_tau,
    pairs_along,
    sign_errors,
    tau_interval,
)

GRID = [
    {"depth": depth, "width": width, "seed": seed}
    for depth, width, seed in product((2, 4, 8), (128, 512), range(4))
]


def column(name: str) -> np.ndarray:
    return np.array([float(setting[name]) for setting in GRID])


def test_tau_agrees_with_scipy_and_counts_ties_as_nothing() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 50))
    assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == 1
    assert kendall_tau([1, 1, 3], [1, 2, 3]) == pytest.approx(2 / 3)


def test_the_interval_of_tau_covers_the_truth() -> None:
    """For normal pairs of correlation r, tau is 2 / pi arcsin r."""
    truth, covered, generator = 2 / np.pi * np.arcsin(0.5), 0, np.random.default_rng(0)
    for trial in range(100):
        x, z = generator.normal(size=(2, 60))
        interval = tau_interval(x, 0.5 * x + 0.75**0.5 * z, draws=200, seed=trial)
        covered += interval.low <= truth <= interval.high
    assert 87 <= covered <= 99


def test_networks_of_one_cluster_are_drawn_together() -> None:
    """Copies of each network add nothing: the interval is that of the networks without copies."""
    generator = np.random.default_rng(0)
    x, z = generator.normal(size=(2, 30))
    y = x + z
    twice = np.arange(30).repeat(3)
    clustered = tau_interval(x[twice], y[twice], clusters=twice.tolist())
    alone = tau_interval(x, y)
    copied = tau_interval(x[twice], y[twice])
    width = alone.high - alone.low
    assert clustered.high - clustered.low == pytest.approx(width, rel=0.15)
    assert copied.high - copied.low < 0.75 * width


def test_pairs_differ_in_one_hyperparameter_and_share_the_seed() -> None:
    pairs = pairs_along(GRID, ["depth", "width"])
    assert len(pairs) == 3 * 2 * 4 + 1 * 3 * 4
    for pair in pairs:
        a, b = GRID[pair.first], GRID[pair.second]
        assert [name for name in a if a[name] != b[name]] == [pair.axis]
        assert (a[pair.axis], b[pair.axis]) == pair.values


def test_a_measure_that_follows_one_hyperparameter_predicts_along_it_alone() -> None:
    """The target follows depth strongly and, against the measure, width weakly."""
    target = column("depth") - 0.001 * column("width")
    whole, psi = granulated_psi(GRID, column("depth"), target, ["depth", "width"])
    assert (psi["depth"].value, psi["width"].value, whole.value) == (1, 0, 0.5)
    whole, psi = granulated_psi(GRID, column("width"), target, ["depth", "width"])
    assert (psi["depth"].value, psi["width"].value, whole.value) == (0, -1, -0.5)
    with pytest.raises(ValueError, match="no two networks differ in width alone"):
        granulated_psi(GRID[:4], column("depth")[:4], target[:4], ["width"])


def test_missing_networks_leave_the_other_pairs() -> None:
    kept = [setting for setting in GRID if (setting["depth"], setting["seed"]) != (4, 0)]
    values = [float(setting["depth"]) for setting in kept]
    _, psi = granulated_psi(kept, values, values, ["depth", "width"])
    assert psi["depth"].value == 1


def test_the_worst_environment_comes_first_and_noise_is_left_out() -> None:
    target = column("depth") - 0.001 * column("width")
    errors = sign_errors(GRID, column("depth"), target, ["depth", "width"], noise=0.1, least=4)
    assert [(each.axis, each.values, each.error.value) for each in errors] == [
        ("width", (128, 512), 0.5),
        ("depth", (2, 4), 0.0),
        ("depth", (2, 8), 0.0),
        ("depth", (4, 8), 0.0),
    ]
    assert [each.pairs for each in errors] == [12, 8, 8, 8]
    quiet = sign_errors(GRID, column("depth"), target, ["depth", "width"], noise=0.5, least=4)
    assert {each.axis for each in quiet} == {"depth"}
    few = sign_errors(GRID, column("depth"), target, ["depth", "width"], noise=0.1, least=9)
    assert {each.axis for each in few} == {"width"}


def test_the_interval_of_a_mean_and_its_sign() -> None:
    interval = bootstrap_mean(np.random.default_rng(0).normal(1, 1, 400).tolist())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert interval.sign == 1
    assert Interval(-0.5, -0.6, -0.4).sign == -1
    assert Interval(0.1, -0.2, 0.4).sign == 0
    assert str(Interval(0.3111, 0.25, 0.371)) == "0.31 [0.25, 0.37]"
