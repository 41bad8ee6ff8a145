"""Means and ranges over seeds, and which of two variants is better."""

import pytest

from lab.fake_tasks import ACCURACY, PERPLEXITY
from nero_lab.analysis.scores import Scores, standing
from nero_lab.experiments.task import Metric


def scores(*values: float | None, metric: Metric = ACCURACY, **changes: int) -> Scores:
    return Scores(values, **{"wanted": len(values), "diverged": 0} | changes, metric=metric)


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        (scores(0.5, 0.75, 0.25), "0.5000 [0.2500, 0.7500]"),
        (scores(50.0, 75.0, 25.0, metric=PERPLEXITY), "50.00 [75.00, 25.00]"),
        (scores(0.5), "0.5000"),
        (scores(12345.6, metric=PERPLEXITY), "1.235e+04"),
        (scores(), "-"),
        (scores(0.5, None, diverged=1), "not finite (1 diverged)"),
        (scores(0.5, wanted=3), "0.5000 (1 of 3 seeds)"),
        (scores(float("nan"), diverged=1, wanted=2), "not finite (1 diverged, 1 of 2 seeds)"),
    ],
)
def test_text(scores: Scores, text: str):
    assert str(scores) == text


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (scores(0.6, 0.7), scores(0.4, 0.5), "better"),
        (scores(0.4, 0.5), scores(0.6, 0.7), "worse"),
        (scores(0.4, 0.6), scores(0.5, 0.7), "level"),
        (scores(0.5), scores(0.5), "level"),
        (scores(4.0, metric=PERPLEXITY), scores(5.0, metric=PERPLEXITY), "better"),
        (scores(0.9, None, diverged=1), scores(0.1, 0.2), "level"),
        (scores(None, None, diverged=2), scores(0.1, 0.2), "worse"),
        (scores(None, diverged=1), scores(None, diverged=1), "level"),
    ],
)
def test_standing(one: Scores, other: Scores, expected: str):
    assert standing(one, other) == expected
    opposite = {"better": "worse", "worse": "better", "level": "level"}
    assert standing(other, one) == opposite[expected]
