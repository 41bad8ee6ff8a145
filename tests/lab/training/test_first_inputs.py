"""What trained modules are called with, found by a step that changes nothing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lab.tiny_task import Blobs
from nero_lab.experiments.task import Task, Update
from nero_lab.training.first_inputs import first_inputs


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.idle = nn.Linear(4, 3), Scaled(), nn.Linear(2, 2)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        return factor * self.layer(x)


class TwoModules(Blobs):
    def training_step(
        self, model: nn.Module, batch: Any, update: Update, **options: Any
    ) -> Mapping[str, Tensor]:
        assert isinstance(model, Pair)
        hidden = model.one(batch + torch.rand(1))
        model.one(2 * batch)
        loss = model.other(hidden, factor=options["factor"]).sum()
        update(loss, "other")
        return {"loss": loss.detach()}


def test_arguments_of_the_first_calls_and_nothing_has_changed() -> None:
    model, task = Pair(), TwoModules()
    modules = {"one": model.one, "other": model.other, "idle": model.idle}
    before = {name: p.clone() for name, p in model.state_dict().items()}
    batch, random = torch.randn(5, 4), torch.get_rng_state()
    seen = first_inputs(task, model, modules, batch, factor=3.0)
    assert torch.equal(torch.get_rng_state(), random)
    assert seen.keys() == {"one", "other"}
    ((x,), others) = seen["one"], seen["other"]
    assert torch.equal(x, batch + torch.rand(1))
    assert others["factor"] == 3.0
    assert torch.equal(others["x"], model.one(x))
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_plain_task() -> None:
    task: Task = Blobs()
    preset = task.presets["tiny"]
    data = task.load_data(task.find_data(None), preset.batch_size, **preset.data)
    model = task.build_model(**preset.model)
    batch = next(iter(data.train.batches(0, seed=0)))
    seen = first_inputs(task, model, task.trained_modules(model), batch, **preset.loss)
    assert torch.equal(seen["model"][0], batch[0])
