"""What a run is given besides its configuration, none of which changes its result."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from nero_lab.experiments.run import Run

INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


class Stopped(Exception):
    """A run was asked to stop; what it had done is in a checkpoint where it keeps one."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    run: Run
    step: int
    steps: int
    """of the whole run"""
    epoch: int
    """counted from 0"""
    metrics: Mapping[str, float]
    """the newest of each: "train_loss", "val_accuracy" and so on"""


@dataclass(frozen=True)
class Context:
    """Where a run reads and writes, on what it computes, and who hears of its progress."""

    data_folder: Path | None = None
    """where the user says the data are; None: wherever they usually are"""
    checkpoints: Path | None = None
    """the folder of this run's checkpoints, from which it goes on; None: it keeps none"""
    save_seconds: float = 60.0
    """time from one checkpoint to the next"""
    save_steps: int | None = None
    """steps from one checkpoint to the next, beside `save_seconds`"""
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    compile: bool = False
    weights: Path | None = None
    """file for the final weights"""
    start: Path | None = None
    """file of the weights that the run starts from, where its configuration names some"""
    watch: int | None = None
    """steps from one report of what the layers do to the next; None: nothing is watched"""
    on_progress: Callable[[Progress], None] = lambda progress: None
    """called a few times a second, in the first process only"""
    stop: threading.Event = field(default_factory=threading.Event)
    """set by whoever wants the run to save its state and stop"""


@contextmanager
def stop_on_signals(stop: threading.Event, numbers: Iterable[int]) -> Iterator[list[int]]:
    """Set `stop` where one of the signals comes; the next one ends this process at once.

    Yields:
        The signals that came.
    """
    came: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if came:
            raise SystemExit(128 + number)
        came.append(number)
        stop.set()

    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
