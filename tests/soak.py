"""Train for a long time with everything that one may do to a run, and watch the memory.

    python tests/soak.py --minutes 20

Rounds of random operations, each step held to the float64 oracle, alternate with the training of a
network by an optimiser that lives from beginning to end. Fails if a step is not the oracle's, or if
resident memory, by a straight line through all that was seen after the first quarter of the time,
grew by more than a limit. The last lines printed are the figures; a failure prints the seed of its
round, which `--seed` runs first.
"""

import argparse
import copy
import gc
import io
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from nero import Nero, step_in_backward
from operations import DTYPES, GRADIENTS, LRS, MEMORY, PATHS, ROWS, World
from optimizer_table import CONSTRAINTS

WARM_UP = 0.25
"""the part of the time whose samples do not count: allocators fill their pools in it"""
LIMIT = 4.0
"""MiB that memory may have grown by in the rest"""
OPERATIONS = 30
"""in a round"""
NETWORK_STEPS = 30
LEAST_ROUNDS = 3
"""what a line needs, after the first of them"""


class Sample(NamedTuple):
    """Resident memory at a time."""

    seconds: float
    mebibytes: float


class Growth(NamedTuple):
    """A straight line through samples, by least squares."""

    mebibytes: float
    minutes: float

    @property
    def kibibytes_a_minute(self) -> float:
        return 1024 * self.mebibytes / self.minutes


def growth(samples: Sequence[Sample]) -> Growth:
    """The growth after the warm-up."""
    start, end = samples[0].seconds, samples[-1].seconds
    late = [s for s in samples if s.seconds >= start + WARM_UP * (end - start)]
    if len(late) < 2:  # the last round took most of the time
        late = samples[-2:]
    t = torch.tensor([s.seconds for s in late], dtype=torch.float64)
    m = torch.tensor([s.mebibytes for s in late], dtype=torch.float64)
    t, m = t - t.mean(), m - m.mean()
    span = late[-1].seconds - late[0].seconds
    return Growth(float((t * m).sum() / (t * t).sum()) * span, span / 60)


def resident() -> float:
    """MiB of the process that are in memory, as Linux reports."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096 / 2**20


class Network:
    """A network that is trained from beginning to end, in both ways of stepping."""

    def __init__(self) -> None:
        # The second layer is large enough for the kernel to use threads.
        self.model = nn.Sequential(
            nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 512), nn.LayerNorm(512), nn.Linear(512, 4)
        )
        self.optimizer = Nero(self.model.named_parameters(), momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9999)

    def train(self, in_backward: bool) -> None:
        stepping = step_in_backward(self.model, self.optimizer) if in_backward else None
        for _ in range(NETWORK_STEPS):
            self.optimizer.zero_grad()
            self.model(torch.randn(8, 16)).square().mean().backward()
            self.optimizer.step()
            self.schedule.step()
        if stepping is not None:
            stepping.remove()
        file = io.BytesIO()
        torch.save([self.model.state_dict(), self.optimizer.state_dict()], file)
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state)
        copy.deepcopy((self.model, self.optimizer))
        assert all(p.isfinite().all() for p in self.model.parameters())


def operate(seed: int, done: Counter[str]) -> None:
    """A round: a new run, and random operations with steps after each."""
    choose = random.Random(seed)

    def rows(most: int) -> list[str]:
        return [choose.choice(sorted(ROWS)) for _ in range(choose.randint(1, most))]

    def constraint() -> str:
        return choose.choice(sorted(CONSTRAINTS))

    def number() -> int:
        return choose.randrange(2**31)

    world = World.new(rows(3), constraint(), choose.choice([0.0, 0.9]), number())
    operations: dict[str, Callable[[], object]] = {
        "add_group": lambda: world.add_group(rows(2), constraint(), 0.9, number()),
        "lr": lambda: world.set_lr(choose.choice(LRS)),
        "path": lambda: world.set_path(choose.choice(sorted(PATHS)), choose.random() < 0.4),
        "dtype": lambda: world.set_dtype(number(), choose.choice(DTYPES)),
        "memory": lambda: world.set_memory(number(), choose.choice(MEMORY)),
        "refused step": lambda: world.refused_step(choose.choice(["nan", "inf"]), number()),
        "save": world.save,
        "load": lambda: world.load(number()),
        "deepcopy": lambda: world.duplicate("deepcopy"),
        "pickle": lambda: world.duplicate("pickle"),
        "project_": world.project,
    }
    for _ in range(OPERATIONS):
        name = choose.choice(list(operations))
        operations[name]()
        done[name] += 1
        for _ in range(choose.randint(1, 4)):
            world.step([choose.choice(GRADIENTS) for _ in range(3)], number())
        world.check_finite()
    done["steps"] += world.steps


def soak(minutes: float, first: int, done: Counter[str]) -> list[Sample]:
    """Work for so long; returns what memory was after each round."""
    network, samples = Network(), []
    start = printed = time.monotonic()
    round_ = 0
    while len(samples) < LEAST_ROUNDS or time.monotonic() < start + 60 * minutes:
        try:
            operate(first + round_, done)
        except Exception:
            print(f"failed in the round of --seed {first + round_}", file=sys.stderr)
            raise
        network.train(in_backward=round_ % 2 == 0)
        done["network steps"] += NETWORK_STEPS
        round_ += 1
        gc.collect()
        samples.append(Sample(time.monotonic() - start, resident()))
        if time.monotonic() >= printed + 60:
            printed = time.monotonic()
            at = samples[-1]
            print(
                f"{at.seconds / 60:.0f} min: {at.mebibytes:.1f} MiB, {done['steps']} steps",
                flush=True,
            )
    return samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 1 where memory grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="default: 20")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; default: 0")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help=f"MiB that memory may grow by; default: {LIMIT}"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; default: 1")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    done: Counter[str] = Counter()
    samples = soak(chosen.minutes, chosen.seed, done)
    grown = growth(samples)
    print(f"{len(samples)} rounds: {dict(sorted(done.items()))}")
    print(
        f"memory: {samples[0].mebibytes:.1f} MiB after the first round, "
        f"{samples[-1].mebibytes:.1f} MiB at the end; grew by {grown.mebibytes:.2f} MiB in the "
        f"last {grown.minutes:.1f} minutes ({grown.kibibytes_a_minute:.1f} KiB a minute), "
        f"limit {chosen.limit:g} MiB"
    )
    return int(grown.mebibytes > chosen.limit)


if __name__ == "__main__":
    sys.exit(main())
