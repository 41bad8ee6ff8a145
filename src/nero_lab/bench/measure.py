"""One workload: contestants take turns, step by step, and are compared within each round."""

import contextlib
import gc
import logging
import random
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import Parameter

from nero_lab.bench import memory
from nero_lab.bench.clocks import WAITS, Clock, Plain, Turn
from nero_lab.bench.contestants import Contestant, Skipped
from nero_lab.bench.devices import CPU, Device
from nero_lab.bench.results import Row, Table
from nero_lab.bench.workloads import DTYPES, Workload

Tick = Callable[[str], None]
"""called with what is about to be done"""

# Weights and states of all contestants, in multiples of one set of weights: AdamW's two states
# twice over, LAMB's two, Muon's twice and Nero's average, and what a step holds at its peak.
STATES = 12
USABLE = 0.6
"""the part of the free memory that a workload may take"""


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
    compile: bool = True
    """whether those take part that compile something for every shape"""

    def rounds_for(self, seconds: float, full: bool) -> int:
        """Return how often a contestant steps whose turn takes so many seconds."""
        if full or seconds <= 0:
            return self.rounds
        return max(min(self.least, self.rounds), min(self.rounds, int(self.seconds / seconds)))


class Runner:
    """A contestant with its tensors, warmed up and ready to step."""

    def __init__(
        self,
        contestant: Contestant,
        parameters: list[Parameter],
        work: Workload,
        clock: Clock | None = None,
    ) -> None:
        self.contestant = contestant
        self.parameters = parameters
        self.optimizers = contestant.build(parameters, work)
        self.turns: list[Turn | None] = []
        self.rounds = 0
        self.failed = ""
        """why it takes no more turns"""
        self.clock: Clock = clock or Plain()
        self.first, self.estimate = self.clock.warm_up(self.step, contestant.compiled)
        """the seconds of its first step, and what a turn takes"""

    @property
    def taken(self) -> list[Turn]:
        """The turns that it took."""
        return [turn for turn in self.turns if turn is not None]

    @property
    def seconds(self) -> list[float]:
        """The seconds of its steps."""
        return [turn.seconds for turn in self.taken]

    def step(self) -> None:
        """Step all tensors once."""
        for optimizer in self.optimizers:
            optimizer.step()

    def turn(self) -> Turn | None:
        """Return what a step takes; None where it fails, after which it has no more turns."""
        try:
            return self.clock.turn(self.step)
        except Exception as error:  # such as memory that others have taken since
            self.failed = what_failed(error)
            return None


def measure(
    work: Workload, dtype: str, settings: Settings, tick: Tick, device: Device = CPU
) -> Table:
    """Return time and memory of a step of every contestant."""
    name = f"{work.label}, {dtype}"
    tick(f"{name}: weights")
    weights, gradients = make_tensors(work, DTYPES[dtype], device.torch_device)
    own = fits(work.entries * DTYPES[dtype].itemsize, device)
    runners: list[Runner] = []
    rows: dict[str, Row] = {}
    for contestant in device.contestants.values():
        if not contestant.takes_part(work, dtype):
            continue
        tick(f"{name}: {contestant.label}")
        rows[contestant.key] = Row(contestant.key, contestant.label)
        try:
            _refuse(contestant, settings)
            parameters = make_parameters(contestant, work, weights, gradients, own)
            with _without_warnings() if contestant.compiled else contextlib.nullcontext():
                runners.append(Runner(contestant, parameters, work, device.clock()))
        except Skipped as reason:
            rows[contestant.key] = replace(rows[contestant.key], skipped=str(reason))
        except Exception as error:  # a peer that fails is a row of the table, not the end of it
            rows[contestant.key] = replace(rows[contestant.key], skipped=what_failed(error))
    for runner in runners:
        runner.rounds = settings.rounds_for(runner.estimate, runner.contestant.full_rounds)
    interleave(runners, settings.rounds, lambda r: tick(f"{name}: round {r}/{settings.rounds}"))
    for runner in runners:
        tick(f"{name}: memory of {runner.contestant.label}")
        key = runner.contestant.key
        rows[key] = finished_row(rows[key], runner, device)
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


def what_failed(error: Exception) -> str:
    """Return an error in a line."""
    return f"failed: {type(error).__name__}: {error}".splitlines()[0]


def _refuse(contestant: Contestant, settings: Settings) -> None:
    if contestant.compiled and not settings.compile:
        raise Skipped("left out by --no-compile: it compiles for every shape")
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
                part = takes_part(index, runner.rounds, rounds) and not runner.failed
                runner.turns.append(runner.turn() if part else None)
    finally:
        gc.enable()


def takes_part(index: int, own: int, rounds: int) -> bool:
    """Return whether one with `own` of all rounds steps in the round of this index."""
    return (index + 1) * own // rounds > index * own // rounds


def finished_row(row: Row, runner: Runner, device: Device) -> Row:
    """Return the row with the runner's figures; steps it a few times more."""
    if runner.failed:
        return replace(row, skipped=runner.failed)
    low, median, high = statistics.quantiles(runner.seconds, n=4, method="inclusive")
    try:
        torch_peak, resident_rise = device.peak(runner.step, 3 if median < 0.5 else 1)
    except Exception as error:
        return replace(row, skipped=what_failed(error))
    return replace(
        row,
        seconds=median,
        quartiles=(low, high),
        rounds=len(runner.seconds),
        turns=tuple(None if turn is None else turn.seconds for turn in runner.turns),
        host_seconds=_median([turn.host for turn in runner.taken]),
        alone_seconds=_median([turn.alone for turn in runner.taken]),
        alone_turns=tuple(None if turn is None else turn.alone for turn in runner.turns),
        compile_seconds=runner.first if runner.contestant.compiled else None,
        note=_note(runner),
        state_bytes=memory.state_bytes(runner.optimizers),
        torch_peak=torch_peak,
        resident_rise=resident_rise,
    )


def _median(found: Sequence[float | None]) -> float | None:
    seconds = [x for x in found if x is not None]
    return statistics.median(seconds) if seconds else None


def _note(runner: Runner) -> str:
    late, taken = sum(turn.late for turn in runner.taken), len(runner.taken)
    if runner.clock.waits:
        return WAITS
    if late > taken / 5:
        return f"the device caught up with Python in {late} of {taken} rounds"
    return ""


def make_tensors(
    work: Workload, dtype: torch.dtype, device: str = "cpu"
) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights and gradients."""
    generator = torch.Generator(device).manual_seed(0)
    weights, gradients = (
        [
            torch.empty(shape, dtype=dtype, device=device).normal_(std=0.02, generator=generator)
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


def fits(weights: int, device: Device) -> bool:
    """Return whether all contestants can have weights of their own."""
    # Those and the transposed gradients; the common weights and gradients are there already.
    return weights * (len(device.contestants) + 1 + STATES) < USABLE * device.free()
