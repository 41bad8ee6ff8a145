"""What nero.watch adds to training, in CPU time.

    python -m nero_lab.bench.watching

Each network takes turns: some training steps that nothing watches, and one that is observed and
whose report is read. Ratios are taken within a turn, so that they hold on a machine with other
work, too.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import typer

import nero
from nero_lab.bench.training import Training, gpt, mlp, resnet18

STEPS = 5
"""training steps in a row that nothing watches"""
IDLE_STEPS = 500
EVERY = 200
"""nero.watch's default"""


NETWORKS: Mapping[str, Callable[[], Training]] = {
    "mlp-2": lambda: mlp(2, 64, 64, 100),
    "mlp-5": lambda: mlp(5, 256, 64, 100),
    "mlp-100": lambda: mlp(100, 128, 64, 100),
    "mlp-wide": lambda: mlp(3, 1024, 64, 16),
    "resnet18": lambda: resnet18(quick=False),
    "gpt": lambda: gpt(quick=False),
}


@dataclass(frozen=True)
class Found:
    """What watching one network costs."""

    label: str
    seconds: float
    """of CPU time that a training step takes"""
    observed: float
    """what an observed step takes more, in training steps"""
    idle: float
    """what any other step takes more, in training steps"""

    @property
    def share(self) -> float:
        """Return what watching adds to all time, at the default."""
        return self.observed / EVERY + self.idle


def measure(training: Training, turns: int) -> Found:
    """Measure one network, from its initial weights on."""
    optimizer = nero.Nero(nero.param_groups(training.model))

    def train() -> None:
        optimizer.zero_grad()
        training.loss().backward()
        optimizer.step()

    def seconds(steps: int) -> float:
        start = time.process_time()
        for _ in range(steps):
            train()
        return (time.process_time() - start) / steps

    plain, observed = [], []
    for _ in range(turns + 1):
        plain.append(seconds(STEPS))
        with nero.watch(optimizer, every=2) as watch:
            train()  # the first step of a watch meets cold caches
            start = time.process_time()
            train()
            watch.report()
            observed.append((time.process_time() - start) / plain[-1] - 1)
    # The first turn makes state and fills caches.
    step, more = statistics.median(plain[1:]), statistics.median(observed[1:])
    return Found(training.label, step, more, idle_seconds() / step)


def idle_seconds() -> float:
    """Return the CPU time that a watch takes in a step that it does not observe."""
    optimizer = nero.Nero([torch.nn.Parameter(torch.randn(3, 4))])

    def seconds() -> float:
        start = time.process_time()
        for _ in range(IDLE_STEPS):
            optimizer.step()  # of nothing, as there is no gradient
        return (time.process_time() - start) / IDLE_STEPS

    differences = []
    for _ in range(15):
        plain = seconds()
        with nero.watch(optimizer, every=10**9):
            differences.append(seconds() - plain)
    return statistics.median(differences)


def main(
    turns: Annotated[int, typer.Option(min=1, help="Of each network.")] = 30,
    only: Annotated[str, typer.Option(help=f"Of {', '.join(NETWORKS)}, with commas.")] = "",
) -> None:
    """Print what nero.watch adds to the training of some networks, as a table in Markdown."""
    chosen = only.split(",") if only else list(NETWORKS)
    if unknown := [name for name in chosen if name not in NETWORKS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(NETWORKS)}")
    print(f"| network | a training step | an observed one | any other | all, at every={EVERY} |")
    print("| --- | --- | --- | --- | --- |")
    for name in chosen:
        torch.manual_seed(0)
        found = measure(NETWORKS[name](), turns)
        print(
            f"| {found.label} | {1000 * found.seconds:.2f} ms | {1 + found.observed:.2f} steps "
            f"| {1 + found.idle:.4f} steps | {found.share:+.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
