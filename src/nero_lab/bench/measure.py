"""One workload: contestants take turns, step by step, and are compared within each round."""

import contextlib
import gc
import logging
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor
from torch.nn import Parameter

from nero_lab.bench import memory
from nero_lab.bench.contestants import CONTESTANTS, Contestant, Skipped
from nero_lab.bench.results import Row, Table
from nero_lab.bench.workloads import DTYPES, Workload

Tick = Callable[[str], None]
"""called with what is about to be done"""

# Weights and states of all contestants, in multiples of one set of weights: AdamW's two states
# twice over, LAMB's two, Muon's twice and Nero's average, and what a step holds at its peak.
STATES = 12
USABLE = 0.6
"""the part of the free memory that a workload may take"""
SLOW = 2.0
"""seconds above which one step is enough to warm up"""


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    rounds: int = 45
    """how often contestants step"""
    least: int = 5
    """how often the slowest ones do"""
    seconds: float = 5.0
    """what one contestant may take on one workload before it gets fewer rounds"""
    quick: bool = False

    def rounds_for(self, seconds: float, full: bool) -> int:
        """Return how often a contestant steps whose step takes so many seconds."""
        if full or seconds <= 0:
            return self.rounds
        return max(min(self.least, self.rounds), min(self.rounds, int(self.seconds / seconds)))


class Runner:
    """A contestant with its tensors, warmed up and ready to step."""

    def __init__(self, contestant: Contestant, parameters: list[Parameter], work: Workload) -> None:
        self.contestant = contestant
        self.parameters = parameters
        self.optimizers = contestant.build(parameters, work)
        self.turns: list[float | None] = []
        self.rounds = 0
        self.estimate = self.timed()  # makes state, compiles
        if contestant.compiled or self.estimate < SLOW:
            self.estimate = self.timed()

    @property
    def seconds(self) -> list[float]:
        """The seconds of its steps."""
        return [turn for turn in self.turns if turn is not None]

    def step(self) -> None:
        """Step all tensors once."""
        for optimizer in self.optimizers:
            optimizer.step()

    def timed(self) -> float:
        """Return the seconds that a step takes."""
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start


def measure(work: Workload, dtype: str, settings: Settings, tick: Tick) -> Table:
    """Return time and memory of a step of every contestant."""
    name = f"{work.label}, {dtype}"
    tick(f"{name}: weights")
    weights, gradients = make_tensors(work, DTYPES[dtype])
    own = fits(work.entries * DTYPES[dtype].itemsize)
    runners: list[Runner] = []
    rows: dict[str, Row] = {}
    for contestant in CONTESTANTS.values():
        if contestant.in_out and not work.conv1d:
            continue
        tick(f"{name}: {contestant.label}")
        rows[contestant.key] = Row(contestant.key, contestant.label)
        try:
            _refuse(contestant, settings)
            parameters = make_parameters(contestant, work, weights, gradients, own)
            with _without_warnings() if contestant.compiled else contextlib.nullcontext():
                runners.append(Runner(contestant, parameters, work))
        except Skipped as reason:
            rows[contestant.key] = replace(rows[contestant.key], skipped=str(reason))
        except Exception as error:  # a peer that fails is a row of the table, not the end of it
            reason = f"failed: {type(error).__name__}: {error}".splitlines()[0]
            rows[contestant.key] = replace(rows[contestant.key], skipped=reason)
    for runner in runners:
        runner.rounds = settings.rounds_for(runner.estimate, runner.contestant.full_rounds)
    interleave(runners, settings.rounds, lambda r: tick(f"{name}: round {r}/{settings.rounds}"))
    for runner in runners:
        tick(f"{name}: memory of {runner.contestant.label}")
        key = runner.contestant.key
        rows[key] = finished_row(rows[key], runner)
    return Table(
        work.key, work.label, dtype, len(work.shapes), work.entries, own, tuple(rows.values())
    )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep what others say about their own compilation from the console."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _refuse(contestant: Contestant, settings: Settings) -> None:
    if contestant.compiled and settings.quick:
        raise Skipped("left out of the quick run: it compiles a kernel for each shape")


def interleave(runners: Sequence[Runner], rounds: int, tick: Callable[[int], None]) -> None:
    """Time the runners' steps in turns; those with fewer rounds sit some of them out, evenly."""
    order = list(runners)
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for index in range(rounds):
            tick(index + 1)
            shuffle(order)
            for runner in order:
                part = takes_part(index, runner.rounds, rounds)
                runner.turns.append(runner.timed() if part else None)
    finally:
        gc.enable()


def takes_part(index: int, own: int, rounds: int) -> bool:
    """Return whether one with `own` of all rounds steps in the round of this index."""
    return (index + 1) * own // rounds > index * own // rounds


def finished_row(row: Row, runner: Runner) -> Row:
    """Return the row with the runner's figures; steps it a few times more."""
    low, median, high = statistics.quantiles(runner.seconds, n=4, method="inclusive")
    repeats = 3 if median < 0.5 else 1
    return replace(
        row,
        seconds=median,
        quartiles=(low, high),
        rounds=len(runner.seconds),
        turns=tuple(runner.turns),
        state_bytes=memory.state_bytes(runner.optimizers),
        torch_peak=memory.torch_peak(runner.step),
        resident_rise=memory.resident_rise(runner.step, repeats),
    )


def make_tensors(work: Workload, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights and gradients."""
    generator = torch.Generator().manual_seed(0)
    weights, gradients = (
        [
            torch.empty(shape, dtype=dtype).normal_(std=0.02, generator=generator)
            for shape in work.shapes
        ]
        for _ in range(2)
    )
    return weights, gradients


def make_parameters(
    contestant: Contestant,
    work: Workload,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    own: bool,
) -> list[Parameter]:
    """Return a contestant's parameters: its own or the common ones, with the common gradients."""
    turned = set(work.hidden) if contestant.in_out else set()
    parameters = []
    for index, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        if index in turned:
            p, g = Parameter(w.t().contiguous()), g.t().contiguous()
        else:
            p = Parameter(w.clone() if own else w)
        p.grad = g
        parameters.append(p)
    return parameters


def fits(weights: int) -> bool:
    """Return whether all contestants can have weights of their own."""
    available = psutil.virtual_memory().available
    # Those and the transposed gradients; the common weights and gradients are there already.
    return weights * (len(CONTESTANTS) + 1 + STATES) < USABLE * available
