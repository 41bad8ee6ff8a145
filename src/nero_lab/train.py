"""The training loop of one run, on Lightning Fabric.

Fabric's part of a step was measured at 2 to 3 % on the 50- and 100-layer networks of the demo.
The same configuration gives the same result bit for bit on the same machine: initial weights and
batches come from the run's seed, and a run computes in one thread.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from nero_lab.optimizers import OPTIMIZERS
from nero_lab.records import RunConfig, RunResult
from nero_lab.tasks import Splits, Task, load_task

_EVAL_BATCH = 1024


@dataclass
class _Curves:
    train_loss: list[float | None] = field(default_factory=list)
    train_accuracy: list[float | None] = field(default_factory=list)
    val_accuracy: list[float | None] = field(default_factory=list)


def limit_to_one_thread() -> None:
    """Prepare this process for runs; every process that trains calls it once."""
    torch.set_num_threads(1)
    # A plain deep network from default weights lives among denormal numbers, which are up to five
    # times slower on CPUs than zero.
    torch.set_flush_denormal(True)


def train(config: RunConfig) -> RunResult:
    """Train one network and return what was measured."""
    fabric = Fabric(accelerator="cpu", devices=1)
    task = load_task(config.task)
    data = task.data(**config.data)
    torch.manual_seed(config.seed)
    model = task.model(**config.model)
    model, optimizer = fabric.setup(model, _build_optimizer(config, model))
    # Its own generator, so that all optimisers see the same batches whatever else draws numbers.
    shuffling = torch.Generator().manual_seed(config.seed)

    curves = _Curves()
    steps, seconds, diverged = 0, 0.0, False
    for epoch in range(config.epochs):
        start = time.perf_counter()
        batches = torch.randperm(len(data.train.y), generator=shuffling).split(config.batch_size)
        loss, accuracy = _train_epoch(fabric, task, model, optimizer, data, batches, config, epoch)
        seconds += time.perf_counter() - start
        steps += len(batches)
        diverged = not math.isfinite(loss)
        curves.train_loss.append(None if diverged else loss)
        curves.train_accuracy.append(accuracy)
        curves.val_accuracy.append(_accuracy(task, model, data.val))
        if diverged:
            break
    return RunResult(
        status="diverged" if diverged else "finished",
        steps=steps,
        seconds=round(seconds, 3),
        train_accuracy=_accuracy(task, model, data.train),
        val_accuracy=_accuracy(task, model, data.val),
        test_accuracy=_accuracy(task, model, data.test),
        curves=vars(curves),
    )


def _build_optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    spec = OPTIMIZERS[config.optimizer]
    if dict(config.optimizer_options) != dict(spec.options):
        raise ValueError(f"{config}: its options differ from the table's; its record is outdated")
    return spec.build(model.parameters(), config.lr)


def learning_rate(config: RunConfig, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step: decay from epoch to epoch, after a linear warm-up.

    Args:
        config: the run.
        epoch: counted from 0.
        step: of this epoch, counted from 0.
        steps_per_epoch: number of batches.
    """
    lr = config.lr * config.lr_decay**epoch
    warmup_steps = config.warmup_epochs * steps_per_epoch
    steps_done = epoch * steps_per_epoch + step + 1
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
    """Return the mean loss and the accuracy over the epoch's batches, each before its step."""
    total_loss = torch.zeros(())
    total_correct = torch.zeros((), dtype=torch.int64)
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
            total_correct += task.correct(outputs, y)
    images = len(data.train.y)
    return total_loss.item() / images, total_correct.item() / images


@torch.no_grad()
def _accuracy(task: Task, model: nn.Module, split: Any) -> float:
    correct = sum(
        task.correct(model(x), y).item()
        for x, y in zip(split.x.split(_EVAL_BATCH), split.y.split(_EVAL_BATCH), strict=True)
    )
    return correct / len(split.y)
