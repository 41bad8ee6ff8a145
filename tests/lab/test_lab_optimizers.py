import inspect
from importlib import import_module

import pytest
import torch

from nero_lab.models.mlp import PlainMLP
from nero_lab.optimizers import OPTIMIZERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_builds_and_takes_a_step(name):
    model = PlainMLP(3, 8)
    optimizer = OPTIMIZERS[name].build(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    torch.nn.functional.cross_entropy(model(torch.randn(32, 64)), torch.arange(32) % 10).backward()
    optimizer.step()
    assert all(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_default_lr_is_the_librarys_own(name):
    spec = OPTIMIZERS[name]
    module, _, attribute = spec.factory.partition(":")
    signature = inspect.signature(getattr(import_module(module), attribute))
    assert signature.parameters["lr"].default == spec.default_lr


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_grid_holds_the_default_and_is_as_long_as_the_others(name):
    spec = OPTIMIZERS[name]
    assert spec.default_lr in spec.lr_grid
    assert len(spec.lr_grid) == len(OPTIMIZERS["nero"].lr_grid)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_reach_the_optimizer(name):
    spec = OPTIMIZERS[name]
    group = spec.build(PlainMLP(2, 8).parameters(), lr=0.5).param_groups[0]
    assert group["lr"] == 0.5
    assert {key: group[key] for key in spec.options} == dict(spec.options)


def test_settings_in_words():
    assert OPTIMIZERS["sgd"].settings() == "momentum 0.9"
    assert OPTIMIZERS["adam"].settings() == "linear warm-up over the first 5% of the epochs"
    assert OPTIMIZERS["nero"].settings() == "none"
