"""Whole training steps: the optimiser's share of them."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import nero
from nero_lab.bench.contestants import ADAMW, NERO, RECOMMENDED
from nero_lab.bench.measure import Settings, Tick
from nero_lab.bench.results import TrainingRow
from nero_lab.optimizers.find import find_optimizer

BLOCK = 4
"""steps in a row with one optimiser; the first of them, beside another's caches, is not counted"""
GPT = (6, 384, 256, 8, 4096)
"""depth, width, context, batch, vocabulary"""
VIT = (6, 192, 32, 4, 64)
"""depth, width, pixels a side, of a patch, batch"""
MLP = (100, 128, 784, 250)
"""depth, width, pixels, batch: the paper's deep perceptron, at another width"""


@dataclass(frozen=True)
class Training:
    """A model with a batch to train it on."""

    label: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor

    def loss(self) -> Tensor:
        """Return the cross-entropy on the batch."""
        scores = self.model(self.inputs)
        return nn.functional.cross_entropy(scores.flatten(0, -2), self.targets.flatten())


def gpt(quick: bool) -> Training:
    """Return a small GPT and random text."""
    from nero_lab.models.gpt import SmallGPT

    depth, width, context, batch, vocabulary = (1, 32, 16, 2, 64) if quick else GPT
    model = SmallGPT(vocabulary, context, depth, width, heads=max(1, width // 64))
    text = torch.randint(vocabulary, (batch, context + 1))
    label = f"{depth}-layer GPT, width {width}, context {context}, batch {batch}"
    return Training(label, model, text[:, :-1].contiguous(), text[:, 1:].contiguous())


def resnet18(quick: bool) -> Training:
    """Return a ResNet-18 and random images of CIFAR's size."""
    import torchvision

    batch = 2 if quick else 32
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    label = f"ResNet-18, images of 32 x 32, batch {batch}"
    return Training(label, model, torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,)))


def vit(quick: bool) -> Training:
    """Return a small vision transformer and random images of CIFAR's size."""
    from nero_lab.models.vit import SmallViT

    depth, width, pixels, patch, batch = (1, 32, 8, 4, 2) if quick else VIT
    model = SmallViT(pixels, 3, patch, 10, depth, width, heads=max(1, width // 64))
    label = f"{depth}-layer ViT, width {width}, images of {pixels} x {pixels}, batch {batch}"
    images = torch.randn(batch, 3, pixels, pixels)
    return Training(label, model, images, torch.randint(10, (batch,)))


def mlp(depth: int, width: int, pixels: int, batch: int) -> Training:
    """Return a plain perceptron and random images as vectors."""
    from nero_lab.models.mlp import PlainMLP

    model = PlainMLP(depth, width, in_features=pixels)
    label = f"{depth}-layer MLP, width {width}, batch {batch}"
    return Training(label, model, torch.randn(batch, pixels), torch.randint(10, (batch,)))


MODELS: Mapping[str, Callable[[bool], Training]] = {
    "resnet18": resnet18,
    "vit": vit,
    "gpt": gpt,
    "mlp": lambda quick: mlp(*((3, 8, 16, 4) if quick else MLP)),
}


def _recommended(training: Training) -> Any:
    return nero.for_model(training.model, batch=training.inputs, fresh=True)


def _muon(training: Training) -> Any:
    return find_optimizer("muon").build_for(training.model)


OPTIMIZERS: Mapping[str, tuple[str, Callable[[Training], Any]]] = {
    NERO: ("Nero", lambda it: nero.Nero(nero.param_groups(it.model))),
    RECOMMENDED: ("nero.for_model", _recommended),
    "muon": ("Muon, and AdamW for the rest", _muon),
    ADAMW: ("AdamW fused", lambda it: torch.optim.AdamW(it.model.parameters(), fused=True)),
    "sgd": ("SGD fused", lambda it: torch.optim.SGD(it.model.parameters(), lr=1e-3, fused=True)),
}


class Trainer:
    """One optimiser training a model of its own."""

    def __init__(self, model: str, optimizer: str, quick: bool) -> None:
        torch.manual_seed(0)
        self.optimizer_label, build = OPTIMIZERS[optimizer]
        self.training = MODELS[model](quick)
        self.optimizer = build(self.training)
        self.parts: list[tuple[float, float, float]] = []
        """seconds of forward pass, backward pass and step"""

    def step(self) -> tuple[float, float, float]:
        """Train one step and return the seconds of its parts."""
        self.optimizer.zero_grad()
        times = [time.perf_counter()]
        loss = self.training.loss()
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step()
        times.append(time.perf_counter())
        forward, backward, step = (b - a for a, b in itertools.pairwise(times))
        return forward, backward, step

    def block(self) -> None:
        """Train some steps in a row."""
        self.parts += [self.step() for _ in range(BLOCK)][1:]


def measure_training(model: str, settings: Settings, tick: Tick) -> tuple[TrainingRow, ...]:
    """Return the time of training a model, by optimiser."""
    trainers = {key: Trainer(model, key, settings.quick) for key in OPTIMIZERS}
    blocks = -(-settings.rounds // (BLOCK - 1))
    for trainer in trainers.values():
        trainer.step()
    for index in range(blocks):
        tick(f"training, {model}: block {index + 1}/{blocks}")
        for trainer in trainers.values():
            trainer.block()
    return tuple(_row(model, key, trainer) for key, trainer in trainers.items())


def _row(model: str, key: str, trainer: Trainer) -> TrainingRow:
    forward, backward, step = map(statistics.median, zip(*trainer.parts, strict=True))
    return TrainingRow(
        model,
        trainer.training.label,
        sum(p.numel() for p in trainer.training.model.parameters()),
        key,
        trainer.optimizer_label,
        len(trainer.parts),
        forward,
        backward,
        step,
    )
