"""The training loop of one run, on Lightning Fabric.

Fabric's part of a step was measured at 2 to 3 % on the 50- and 100-layer networks of the demo.
The same configuration gives the same result bit for bit on the same machine: initial weights and
batches come from the run's seed, and a run computes in one thread.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

import nero
from nero_lab.optimizers import OPTIMIZERS
from nero_lab.records.old import RunConfig, RunResult
from nero_lab.tasks import Splits, Task, load_task

_EVAL_TARGETS = 1024
"""How many targets are evaluated at once."""
_TRAIN_TARGETS = 4096
"""On how many targets of the training part, at most, the metric is taken at the end."""


@dataclass
class _Curves:
    train_loss: list[float | None] = field(default_factory=list)
    train_metric: list[float | None] = field(default_factory=list)
    val_metric: list[float | None] = field(default_factory=list)


def train(config: RunConfig) -> RunResult:
    """Train one network and return what was measured."""
    fabric = Fabric(accelerator="cpu", devices=1)
    task = load_task(config.task)
    data = _load_data(task, config)
    torch.manual_seed(config.seed)
    model = _build_model(task, config)
    optimizer = _build_optimizer(config, model)
    start_metric = val_metric = _metric(task, model, data.val)
    model, optimizer = fabric.setup(model, optimizer)
    # Its own generator, so that all optimisers see the same batches whatever else draws numbers.
    shuffling = torch.Generator().manual_seed(config.seed)

    curves = _Curves()
    steps, seconds, diverged = 0, 0.0, False
    for epoch in range(config.epochs):
        start = time.perf_counter()
        batches = torch.randperm(len(data.train.y), generator=shuffling).split(config.batch_size)
        loss, metric = _train_epoch(fabric, task, model, optimizer, data, batches, config, epoch)
        seconds += time.perf_counter() - start
        steps += len(batches)
        diverged = not math.isfinite(loss)
        curves.train_loss.append(None if diverged else loss)
        curves.train_metric.append(metric)
        val_metric = _metric(task, model, data.val)
        curves.val_metric.append(val_metric)
        if diverged:
            break
    if config.save_weights and not diverged:
        _save_weights(config, model)
    return RunResult(
        status="diverged" if diverged else "finished",
        steps=steps,
        seconds=round(seconds, 3),
        train_metric=_metric(task, model, data.train, _TRAIN_TARGETS),
        val_metric=val_metric,
        test_metric=_metric(task, model, data.test),
        curves=vars(curves),
        start_metric=start_metric,
    )


def _load_data(task: Task, config: RunConfig) -> Splits:
    # Data that come inside a package have no folder.
    folders = {"folders": config.folders} if config.folders else {}
    return task.data(**config.data, **folders)


def weights_path(config: RunConfig) -> Path:
    """Return where the final weights of a run are kept."""
    return Path(config.folders["weights"]) / f"{config.run_id}.pt"


def _save_weights(config: RunConfig, model: nn.Module) -> None:
    path = weights_path(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under its own name only when it is whole: the process may be stopped at any moment.
    unfinished = path.with_suffix(".tmp")
    torch.save(model.state_dict(), unfinished)
    unfinished.replace(path)


def _build_model(task: Task, config: RunConfig) -> nn.Module:
    model = task.model(**config.model)
    if config.start_from is None:
        return model
    path = Path(config.folders["weights"]) / f"{config.start_from}.pt"
    weights = torch.load(path, weights_only=True)
    fresh = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(tuple(f"{module}." for module in config.fresh))
    }
    kept = {name: value for name, value in weights.items() if name not in fresh}
    model.load_state_dict(kept | fresh)
    return model


def _build_optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    spec = OPTIMIZERS[config.optimizer]
    if dict(config.optimizer_options) != dict(spec.options):
        raise ValueError(f"{config}: its options differ from the table's; its record is outdated")
    if config.groups is None:
        return spec.build(model.parameters(), config.lr)
    return spec.build(nero.param_groups(model, **config.groups), config.lr)


def learning_rate(config: RunConfig, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step: decay by epoch or by step, after a linear warm-up.

    Args:
        config: the run.
        epoch: counted from 0.
        step: of this epoch, counted from 0.
        steps_per_epoch: number of batches.
    """
    warmup_steps = config.warmup_epochs * steps_per_epoch
    steps_done = epoch * steps_per_epoch + step + 1
    if config.lr_decay == "linear":
        lr = config.lr * (1 - (steps_done - 1) / (config.epochs * steps_per_epoch))
    else:
        lr = config.lr * config.lr_decay**epoch
    return lr * min(1.0, steps_done / warmup_steps) if warmup_steps else lr


def _train_epoch(
    fabric: Fabric,
    task: Task,
    model: nn.Module,
    optimizer: Any,
    data: Splits,
    batches: tuple[Tensor, ...],
    config: RunConfig,
    epoch: int,
) -> tuple[float, float]:
    """Return the mean loss and metric over the epoch's batches, each before its step."""
    model.train()
    total_loss = torch.zeros(())
    total_score = torch.zeros((), dtype=torch.float64)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch, step, len(batches))
        x, y = data.train.x[batch], data.train.y[batch]
        optimizer.zero_grad()
        outputs = model(x)
        loss = task.loss(outputs, y)
        fabric.backward(loss)
        optimizer.step()
        with torch.no_grad():
            total_loss += loss * len(y)
            total_score += task.score(outputs, y)
    targets = data.train.y
    return total_loss.item() / len(targets), total_score.item() / targets.numel()


@torch.no_grad()
def _metric(task: Task, model: nn.Module, split: Any, at_most: int | None = None) -> float:
    """Return the metric on a part of the data, or on its first rows with `at_most` targets."""
    model.eval()
    targets_per_row = split.y[0].numel()
    rows = len(split.y) if at_most is None else min(len(split.y), at_most // targets_per_row)
    batch = max(1, _EVAL_TARGETS // targets_per_row)
    total = sum(
        task.score(model(x), y).item()
        for x, y in zip(split.x[:rows].split(batch), split.y[:rows].split(batch), strict=True)
    )
    return total / (rows * targets_per_row)
