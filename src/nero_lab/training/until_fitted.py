"""Training of one network: squared error to targets of one size, until all labels are fitted."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import nero
from nero_lab.data.parts import Split
from nero_lab.experiments.run import Run
from nero_lab.experiments.schedule import Schedule
from nero_lab.optimizers import find_optimizer
from nero_lab.training.context import Context, Progress, Stopped


@dataclass(frozen=True)
class Fitted:
    """How the training of one network went."""

    epochs: int
    """until every training label was fitted, or all that were allowed"""
    steps: int
    initial: Mapping[str, Tensor]
    """the weights before training, balanced"""
    curves: Mapping[str, list[float]]
    """columns of equal length, a row after some epochs, the last among them: "epoch",
    "train_error", and quantiles of the neurons' angles from the initial weights, by layer"""

    @property
    def train_error(self) -> float:
        """Return the last training error; 0 where every label was fitted."""
        return self.curves["train_error"][-1]


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
    to_the_end: bool = False,
    on_epoch: Callable[[int, int, float], None] = lambda epoch, step, error: None,
) -> Fitted:
    """Train until an epoch ends with every training label fitted, or for all epochs.

    Args:
        model: one output; modified.
        optimizer: built for it.
        train: inputs and labels +1 and -1; the targets are `scale` times the labels.
        scale: size of the targets, which the margin approaches.
        epochs: at most.
        batch_size: the last batch of an epoch may be smaller.
        factor: of the learning rate, by the step of the run.
        seed: of the order of the examples.
        to_the_end: whether to go on when all labels are fitted, so that the margins come close to
            `scale`.
        on_epoch: takes the epochs and steps done and the training error.
    """
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    layouts = nero.measures.balanced_layouts(nero.param_groups(model))
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    targets = scale * train.y.to(train.x.dtype)
    step, epoch, error, next_row = 0, 0, 1.0, 1
    curves: dict[str, list[float]] = {}
    while epoch < epochs and (to_the_end or error > 0):
        for rows in torch.randperm(len(targets), generator=generator).split(batch_size):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor(step)
            optimizer.zero_grad()
            (model(train.x[rows]).flatten() - targets[rows]).square().mean().backward()
            optimizer.step()
            step += 1
        epoch, error = epoch + 1, error_rate(model, train)
        last = epoch == epochs or (error == 0 and not to_the_end)
        if epoch >= next_row or last:
            next_row = math.ceil(1.2 * epoch)  # the angles cost as much as some steps
            turned = nero.measures.angles_from_initial(model, initial, layouts)
            row = {"epoch": float(epoch), "train_error": error, **_quantiles(turned)}
            for name, value in row.items():
                curves.setdefault(name, []).append(value)
        on_epoch(epoch, step, error)
    return Fitted(epoch, step, initial, curves)


def _quantiles(angles: Mapping[str, Tensor]) -> dict[str, float]:
    return {
        f"angle_{name.removesuffix('.weight')}_{quantile:g}": each.quantile(quantile).item()
        for name, each in angles.items()
        for quantile in QUANTILES
    }


@torch.no_grad()
def error_rate(model: nn.Module, part: Split) -> float:
    """Return the fraction of examples whose output has not the sign of their label."""
    return (model(part.x).flatten() * part.y <= 0).double().mean().item()


def fit_run(
    build_model: Callable[..., nn.Module],
    run: Run,
    context: Context,
    train: Split,
    *,
    seed: int | None = None,
    to_the_end: bool = False,
    done: float = 0.0,
    share: float = 1.0,
) -> tuple[nn.Module, Fitted]:
    """Return a fresh network of a run, trained. It is short, and keeps no checkpoint.

    Args:
        build_model: takes the run's options of the model.
        run: how the network is trained; `run.loss["scale"]` is the size of the targets.
        context: takes the reports of progress.
        train: what it is trained on.
        seed: of its initial weights and the order of the examples; None: the run's.
        to_the_end: as for `fit`.
        done: what part of the run was done before.
        share: what part of the run this network is.

    Raises:
        Stopped: the context's `stop` was set.
    """
    seed = run.seed if seed is None else seed
    torch.manual_seed(seed)
    model = build_model(**run.model)
    optimizer = find_optimizer(run.optimizer).build_for(
        model, run.lr, options=run.optimizer_options, groups=run.groups
    )
    schedule = Schedule(**run.schedule)
    steps_per_epoch = -(-len(train.y) // run.batch_size)

    def on_epoch(epoch: int, step: int, error: float) -> None:
        steps = run.epochs * steps_per_epoch
        at = round(done * steps + share * step)
        context.on_progress(Progress(run, at, steps, epoch - 1, {"train_error": error}))
        if context.stop.is_set():
            raise Stopped(f"{run} was stopped after {epoch} epochs")

    fitted = fit(
        model,
        optimizer,
        train,
        scale=run.loss["scale"],
        epochs=run.epochs,
        batch_size=run.batch_size,
        factor=lambda step: schedule.factor(step, steps_per_epoch, run.epochs),
        seed=seed,
        to_the_end=to_the_end,
        on_epoch=on_epoch,
    )
    return model, fitted
