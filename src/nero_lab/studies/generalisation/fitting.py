"""Training of one network of the study: squared error to targets of one size, until all fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import nero
from nero_lab.data.parts import Split


@dataclass(frozen=True)
class Fitted:
    """How the training of one network went."""

    epochs: int
    """until every training label was fitted, or all that were allowed"""
    steps: int
    train_error: float
    initial: Mapping[str, Tensor]
    """the weights before training, balanced"""
    angles: Sequence[Mapping[str, float]]
    """per epoch, quantiles of the neurons' angles from the initial weights, by layer"""


QUANTILES = (0.1, 0.5, 0.9)


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    train: Split,
    *,
    scale: float,
    epochs: int,
    batch_size: int,
    factor: Callable[[int], float],
    seed: int,
    on_epoch: Callable[[int, int, float], None] = lambda epoch, step, error: None,
) -> Fitted:
    """Train until an epoch ends with every training label fitted.

    Args:
        model: one output; modified.
        optimizer: built for it.
        train: inputs and labels +1 and -1; the targets are `scale` times the labels.
        scale: size of the targets, which the margin approaches.
        epochs: at most.
        batch_size: the last batch of an epoch may be smaller.
        factor: of the learning rate, by the step of the run.
        seed: of the order of the examples.
        on_epoch: takes the epochs and steps done and the training error.
    """
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    layouts = nero.measures.balanced_layouts(nero.param_groups(model))
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    targets = scale * train.y.to(train.x.dtype)
    step, epoch, error, angles = 0, 0, 1.0, []
    while epoch < epochs and error > 0:
        for rows in torch.randperm(len(targets), generator=generator).split(batch_size):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor(step)
            optimizer.zero_grad()
            (model(train.x[rows]).flatten() - targets[rows]).square().mean().backward()
            optimizer.step()
            step += 1
        epoch += 1
        error = error_rate(model, train)
        turned = nero.measures.angles_from_initial(model, initial, layouts)
        angles.append(
            {
                f"angle_{name.removesuffix('.weight')}_{quantile:g}": each.quantile(quantile).item()
                for name, each in turned.items()
                for quantile in QUANTILES
            }
        )
        on_epoch(epoch, step, error)
    return Fitted(epoch, step, error, initial, angles)


@torch.no_grad()
def error_rate(model: nn.Module, part: Split) -> float:
    """Return the fraction of examples whose output has not the sign of their label."""
    return (model(part.x).flatten() * part.y <= 0).double().mean().item()
