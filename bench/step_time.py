"""Time of one optimiser step against torch's optimisers, in one run, as ratios.

    python bench/step_time.py [--rounds 15] [--threads 2]

The optimisers take turns, step by step, so that the machine's moods hit all of them; the table
gives each one's median step as a multiple of torch's fused AdamW's, and the state it keeps. Times
of different runs or machines are not comparable, which is why none is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import nero

Shapes = list[tuple[int, ...]]

MODELS: dict[str, Shapes] = {
    "100-layer MLP, width 64": [(64, 64), (64,)] * 99 + [(10, 64), (10,)],
    "6-layer GPT, width 384": [
        (384, 384),
        *[(1152, 384), (1152,), (384, 384), (384,), (1536, 384), (1536,), (384, 1536), (384,)] * 6,
        *[(384,)] * 26,
    ],
    "one 2048 x 2048 matrix": [(2048, 2048)],
}

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "AdamW single": lambda p: torch.optim.AdamW(p, foreach=False, fused=False),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.01, fused=True),
    "Nero (default)": lambda p: nero.Nero(p),
    "Nero foreach=False": lambda p: nero.Nero(p, foreach=False),
}


def step_times(shapes: Shapes, rounds: int) -> dict[str, tuple[float, int]]:
    """Median seconds of a step and bytes of state, by optimiser."""
    optimizers = {}
    for name, build in OPTIMIZERS.items():
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizers[name] = build(parameters)
        optimizers[name].step()
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: (statistics.median(seconds[name]), state_bytes(optimizer))
        for name, optimizer in optimizers.items()
    }


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all state tensors."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def main() -> None:
    """Print one table per model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each optimiser")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds")
    for model, shapes in MODELS.items():
        times = step_times(shapes, arguments.rounds)
        unit = times["AdamW fused"][0]
        weights = 4 * sum(torch.Size(shape).numel() for shape in shapes)
        print(f"\n{model}: {len(shapes)} tensors, {weights / 1e6:.2f} MB of weights")
        print(f"  {'':20} {'step / fused AdamW':>20} {'state / weights':>16}")
        for name, (seconds, state) in times.items():
            print(f"  {name:20} {seconds / unit:20.2f} {state / weights:16.5f}")


if __name__ == "__main__":
    main()
