"""Training until all labels are fitted."""

import torch

from lab.tiny_sphere import network, small_task
from nero_lab.training.until_fitted import error_rate, fit


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
    assert fitted.curves["epoch"][-1] == fitted.epochs
    assert fitted.curves["train_error"][-1] == 0
    assert {len(column) for column in fitted.curves.values()} == {len(fitted.curves["epoch"])}
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
    for layer in ("layers.0", "layers.1"):
        before, after = fitted.curves[f"angle_{layer}_0.5"]
        assert before == 0 < after
    assert all(torch.equal(fitted.initial[n], p) is False for n, p in model.named_parameters())
