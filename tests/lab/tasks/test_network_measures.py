"""The measures of one network, and the expectations that were written down."""

import math
from pathlib import Path

import pytest
import torch

from lab.tiny_sphere import network, small_task
from nero_lab.tasks.network_measures import (
    FLATNESS_ANGLES,
    MEASURES,
    measure_network,
    relative_loss,
)
from nero_lab.training.until_fitted import fit


def test_every_measure_is_finite_and_the_same_seed_gives_the_same_numbers() -> None:
    model, optimizer = network()
    train = small_task(60)
    fitted = fit(
        model, optimizer, train, scale=1.0, epochs=200, batch_size=60, factor=lambda s: 1, seed=0
    )
    assert fitted.train_error == 0
    first, second = (measure_network(model, fitted.initial, train, 1.0, seed=3) for _ in "ab")
    assert first == second
    assert [*first.values] == [each.name for each in MEASURES]
    assert all(math.isfinite(value) for value in [*first.values.values(), *first.details.values()])
    assert len(first.flatness_curve) == len(FLATNESS_ANGLES)
    assert first.flatness_curve[0] > first.flatness_curve[-1]
    assert first.values["parameters"] == 20 * 16 + 16
    assert 0 < first.values["margin"] < 16
    for bound in ("cap-bound", "fisher-bound"):
        assert 0 < first.values[bound] <= 1


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_sharpness_is_in_units_of_the_targets(scale: float) -> None:
    """The loss of an output of 0 is 1 whatever the targets."""
    labels = torch.tensor([1.0, -1.0])
    assert relative_loss(scale)(torch.zeros(2, 1), labels).item() == 1
    assert relative_loss(scale)(scale * labels[:, None], labels).item() == pytest.approx(0)


def test_the_page_states_the_expectations_that_the_code_has() -> None:
    page = Path(__file__).parents[3] / "docs" / "evidence" / "generalisation.md"
    text = page.read_text("utf-8")
    for each in MEASURES:
        assert f"| {each.title} | {'+' if each.sign > 0 else '−'} | {each.why} |" in text
