"""What the records of the study say: how well each measure predicts the generalisation gap."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nero_lab.analysis.prediction import (
    Interval,
    SignError,
    granulated_psi,
    sign_errors,
    tau_interval,
)
from nero_lab.records.store import Record
from nero_lab.studies.generalisation.grid import AXES, setting
from nero_lab.tasks.network_measures import MEASURES, Measure

GAP_NOISE = 0.01
"""About two standard errors of the difference of two test errors on 10,000 images."""
BOUNDS = {
    "cap-bound": "caps, uniform prior",
    "fisher-bound": "von Mises-Fisher around the initial weights",
    "information-bound": "information content, all wide networks that fit",
}


@dataclass(frozen=True)
class Network:
    """One network that fitted all its training labels."""

    setting: Mapping[str, Any]
    gap: float
    """error on fresh examples with the label noise of the training part, less 0"""
    measures: Mapping[str, float]
    bounds: Mapping[str, float]
    """on the same error, by the names of BOUNDS"""


@dataclass(frozen=True)
class Prediction:
    """How one measure did; tau and Psi are of the measure itself, without its expected sign."""

    measure: Measure
    tau: Interval
    within_noise: Mapping[float, Interval]
    """tau among the networks of one label noise"""
    psi: Interval
    psi_of: Mapping[str, Interval]
    worst: SignError | None
    """of the measure with its expected sign; None where no environment has enough pairs"""

    @property
    def verdict(self) -> str:
        """Return whether Psi has the expected sign: "predicted", "wrong sign" or "undecided"."""
        return {self.measure.sign: "predicted", 0: "undecided"}.get(self.psi.sign, "wrong sign")

    def along(self, sign: int) -> list[str]:
        """Return the hyperparameters along which it has the expected sign (1) or the other (-1)."""
        return [axis for axis, psi in self.psi_of.items() if psi.sign == sign * self.measure.sign]


@dataclass(frozen=True)
class Findings:
    """All that the study says."""

    networks: Sequence[Network]
    failed: Mapping[tuple[tuple[str, Any], ...], int]
    """settings whose networks did not fit all labels, and of how many seeds"""
    predictions: Sequence[Prediction]


def gap(test_error: float, noise: float) -> float:
    """Return the error on labels of which a fraction `noise` are coins, from that on clean ones."""
    return (1 - noise) * test_error + noise / 2


def find(records: Iterable[Record], *, draws: int = 1000) -> Findings:
    """Return what the records say.

    Args:
        records: of runs of the grid.
        draws: resamples for every interval.

    Raises:
        ValueError: a measure is not finite.
    """
    networks, failed = [], Counter()
    for record in records:
        where, metrics = setting(record.run), record.result.metrics
        if "measures" not in metrics:
            failed[tuple((axis, where[axis]) for axis in AXES)] += 1
            continue
        values = _finite(record)
        bounds = {name: values["measures"][name] for name in ("cap-bound", "fisher-bound")}
        bounds["information-bound"] = values["bounds"]["information_bound"]
        error = gap(values["test"]["error"], where["noise"])
        networks.append(Network(where, error, values["measures"], bounds))
    return Findings(networks, failed, [_predict(each, networks, draws) for each in MEASURES])


def _finite(record: Record) -> dict[str, dict[str, float]]:
    """Return the metrics of a network, or raise ValueError where one is not finite."""
    found: dict[str, dict[str, float]] = {}
    for part, metrics in record.result.metrics.items():
        found[part] = {}
        for name, value in metrics.items():
            if value is None:
                raise ValueError(f"{record.run}: {name} is not finite")
            found[part][name] = value
    return found


def _predict(measure: Measure, networks: Sequence[Network], draws: int) -> Prediction:
    settings = [each.setting for each in networks]
    values = [each.measures[measure.name] for each in networks]
    gaps = [each.gap for each in networks]
    noises = sorted({where["noise"] for where in settings})
    varied = [axis for axis in AXES if len({where[axis] for where in settings}) > 1]
    psi, psi_of = granulated_psi(settings, values, gaps, varied, draws=draws)
    signed = [measure.sign * value for value in values]
    errors = sign_errors(settings, signed, gaps, varied, noise=GAP_NOISE, draws=draws)
    return Prediction(
        measure,
        tau_interval(values, gaps, clusters=_clusters(settings), draws=draws),
        {noise: _tau_within(noise, settings, values, gaps, draws) for noise in noises},
        psi,
        psi_of,
        errors[0] if errors else None,
    )


def _tau_within(
    noise: float,
    settings: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    gaps: Sequence[float],
    draws: int,
) -> Interval:
    rows = [index for index, where in enumerate(settings) if where["noise"] == noise]
    return tau_interval(
        [values[row] for row in rows],
        [gaps[row] for row in rows],
        clusters=_clusters([settings[row] for row in rows]),
        draws=draws,
    )


def _clusters(settings: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Return for each network its setting without the seed."""
    return [tuple(where[axis] for axis in AXES) for where in settings]
