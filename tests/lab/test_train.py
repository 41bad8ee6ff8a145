import dataclasses

import pytest
import torch

from nero_lab.records.old import RunConfig
from nero_lab.train import learning_rate, train


@pytest.mark.parametrize("optimizer", ["nero", "adam", "sgd", "lamb"])
def test_same_seed_same_result_bit_for_bit(config: RunConfig, optimizer):
    from nero_lab.optimizers import OPTIMIZERS

    config = dataclasses.replace(
        config, optimizer=optimizer, optimizer_options=dict(OPTIMIZERS[optimizer].options)
    )
    torch.manual_seed(123)
    first = train(config)
    torch.rand(7)
    again = train(config)
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(again, seconds=0)
    other = train(dataclasses.replace(config, seed=1))
    assert other.curves["train_loss"] != first.curves["train_loss"]


def test_learns_and_measures_each_part(config: RunConfig):
    result = train(dataclasses.replace(config, lr=0.01, epochs=5))
    assert result.status == "finished"
    assert result.steps == 5 * 10
    assert result.test_metric > 0.8
    assert {len(curve) for curve in result.curves.values()} == {5}
    assert result.curves["val_metric"][-1] == result.val_metric
    # The three parts have different sizes, so equal fractions would mean that one was used twice.
    assert (result.train_metric * 1250) == pytest.approx(round(result.train_metric * 1250))
    assert (result.val_metric * 187) == pytest.approx(round(result.val_metric * 187))
    assert (result.test_metric * 360) == pytest.approx(round(result.test_metric * 360))


def test_divergence_stops_the_run_and_is_recorded(config: RunConfig):
    config = dataclasses.replace(
        config,
        optimizer="sgd",
        lr=1e30,
        epochs=4,
        warmup_epochs=0,
        optimizer_options={"momentum": 0.9, "fused": True},
    )
    result = train(config)
    assert result.status == "diverged"
    assert result.steps == 10
    assert result.curves["train_loss"] == [None]


def test_learning_rate_decays_by_epoch_after_linear_warmup(config: RunConfig):
    config = dataclasses.replace(config, lr=1.0, lr_decay=0.5, warmup_epochs=2)
    assert [learning_rate(config, 0, step, 2) for step in (0, 1)] == [0.25, 0.5]
    assert [learning_rate(config, 1, step, 2) for step in (0, 1)] == [0.375, 0.5]
    assert learning_rate(config, 3, 0, 2) == 0.125
    assert learning_rate(dataclasses.replace(config, warmup_epochs=0), 0, 0, 2) == 1.0


def test_outdated_options_are_refused(config: RunConfig):
    with pytest.raises(ValueError, match="options"):
        train(dataclasses.replace(config, optimizer_options={"fused": False}))
