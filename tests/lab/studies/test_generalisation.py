"""The networks of the study of generalisation: how they are trained, and what is measured."""

import math
from pathlib import Path

import pytest
import torch

import nero
from nero_lab.data.parts import Split
from nero_lab.models.mlp import PlainMLP
from nero_lab.studies.generalisation.fitting import error_rate, fit
from nero_lab.studies.generalisation.measuring import (
    FLATNESS_ANGLES,
    MEASURES,
    measure_network,
    relative_loss,
)


def small_task(examples: int, seed: int = 0) -> Split:
    """Points on the sphere of norm sqrt(20), centred; the label is the sign of one direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 20, generator=generator)
    x = x - x.mean(1, keepdim=True)
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(20)
    return Split(x, torch.where(x[:, 0] > x[:, 1], 1, -1))


def network(lr: float = 0.03) -> tuple[PlainMLP, nero.Nero]:
    torch.manual_seed(0)
    model = PlainMLP(2, 16, in_features=20, classes=1, bias=False)
    return model, nero.Nero(nero.param_groups(model), lr=lr, beta=0.9, momentum=0.9)


def test_training_stops_when_every_label_is_fitted() -> None:
    model, optimizer = network()
    seen = []
    fitted = fit(
        model,
        optimizer,
        small_task(60),
        scale=1.0,
        epochs=200,
        batch_size=25,
        factor=lambda step: 1 - step / 600,
        seed=0,
        on_epoch=lambda *progress: seen.append(progress),
    )
    assert fitted.train_error == error_rate(model, small_task(60)) == 0
    assert [epoch for epoch, _, _ in seen] == list(range(1, fitted.epochs + 1))
    assert fitted.steps == 3 * fitted.epochs < 600
    assert all(error > 0 for _, _, error in seen[:-1])
    assert len(fitted.angles) == fitted.epochs
    assert error_rate(model, small_task(1000, seed=1)) < 0.3


def test_training_ends_with_its_epochs_and_follows_the_schedule() -> None:
    model, optimizer = network()
    noise = small_task(60)._replace(y=torch.randn(60).sign().long())
    fitted = fit(
        model, optimizer, noise, scale=1.0, epochs=2, batch_size=60, factor=lambda s: s, seed=0
    )
    assert (fitted.epochs, fitted.steps) == (2, 2)
    assert fitted.train_error > 0
    assert optimizer.param_groups[0]["lr"] == 0.03
    # The first step has the rate 0: nothing has turned after it.
    assert max(fitted.angles[0].values()) == 0
    assert min(fitted.angles[1].values()) > 0
    assert all(torch.equal(fitted.initial[n], p) is False for n, p in model.named_parameters())


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
