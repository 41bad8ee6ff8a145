"""One run at the command line: its progress bar, its record, and what happens when it is stopped.

Works the same when several processes do it together: the first of them prints and writes.
"""

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from nero_lab.data.found import FoundData
from nero_lab.data.parts import MissingData
from nero_lab.experiments.run import Result, Run, find_variant, plan_run, variant_spec
from nero_lab.experiments.task import Task
from nero_lab.records.store import Record, Records
from nero_lab.training.checkpoints import CheckpointError, Checkpoints, only_process
from nero_lab.training.context import INTERRUPTED, Context, Progress, Stopped, stop_on_signals
from nero_lab.training.loop import train_run
from nero_lab.training.messages import say, say_error

_LINE_SECONDS = 10.0
"""Where there is no terminal, the least time between two lines of progress."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for at the command line."""

    optimizer: str
    lr: float | None
    preset: str
    seed: int
    model: Mapping[str, Any]
    data: Path | None
    out: Path
    devices: int
    nodes: int
    accelerator: str
    precision: str | None
    compile: bool
    threads: int | None
    save_every: float
    watch: int | None
    fresh: bool


def torchrun_devices() -> tuple[int, int] | None:
    """Return how many (devices, nodes) torchrun started this with, None where it did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


def is_first_process() -> bool:
    """Return whether this is the only process, or the one of several that prints and writes."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def train_one(task: Task, wanted: Wanted, console: Console) -> int:
    """Train one run of a task, or go on with it, and record it.

    Returns:
        The exit code: 0, also where SIGTERM stopped it; 1 after an error; 130 after Ctrl-C.
    """
    stop = threading.Event()
    try:
        with stop_on_signals(stop, (signal.SIGTERM, signal.SIGINT)) as came, ExitStack() as held:
            return _train(task, wanted, console, stop, came, held)
    except (MissingData, ValueError, CheckpointError, OSError) as error:
        say_error(console, error)
        return 1
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _train(
    task: Task,
    wanted: Wanted,
    console: Console,
    stop: threading.Event,
    came: list[int],
    held: ExitStack,
) -> int:
    _set_threads(wanted)
    run, found = plan(task, wanted)
    checkpoints = wanted.out / "checkpoints" / run.run_id
    if is_first_process():
        held.enter_context(only_process(checkpoints))
    records = Records(wanted.out)
    weights = wanted.out / "weights" / f"{run.run_id}.pt"
    record = records.get(run)
    if record is not None and not wanted.fresh:
        say(console, f"{run} is recorded already; --fresh trains it again.")
        _print_result(task, record.result, console)
        return 0
    if wanted.fresh and is_first_process() and checkpoints.exists():
        Checkpoints(checkpoints).clear()
    stands_in = f", in the place of {found.stand_in_for}" if found.stand_in_for else ""
    say(console, f"{run}, on {found.name}{stands_in}")
    try:
        with _Bar(task, console) as bar:
            result = train_run(
                task,
                run,
                Context(
                    data_folder=wanted.data,
                    checkpoints=checkpoints,
                    weights=weights,
                    save_seconds=wanted.save_every,
                    accelerator=wanted.accelerator,
                    devices=wanted.devices,
                    nodes=wanted.nodes,
                    compile=wanted.compile,
                    watch=wanted.watch,
                    on_progress=bar.show,
                    stop=stop,
                ),
            )
    except Stopped as stopped:
        say(console, f"{stopped}, saved in {checkpoints}. The same command again goes on.")
        return INTERRUPTED if signal.SIGINT in came else 0
    if is_first_process():
        records.append(Record(run, result, data_stands_in_for=found.stand_in_for))
        if checkpoints.exists():
            Checkpoints(checkpoints).clear()
    _print_result(task, result, console)
    say(console, f"Record: {wanted.out / task.name}.jsonl; weights: {weights}")
    return 0


def _set_threads(wanted: Wanted) -> None:
    torch.set_flush_denormal(True)
    threads = wanted.threads
    if threads is None and wanted.devices > 1:
        threads = max(1, (os.cpu_count() or 1) // wanted.devices)
    if threads is not None:
        torch.set_num_threads(threads)


def plan(task: Task, wanted: Wanted) -> tuple[Run, FoundData]:
    """Return the run that was asked for, and its data.

    Raises:
        ValueError: there is no such preset or optimiser.
        MissingData: there is no such data set.
    """
    preset = task.preset(wanted.preset)
    variant = find_variant(preset, wanted.optimizer)
    lr = variant_spec(variant).default_lr if wanted.lr is None else wanted.lr
    run = plan_run(task, preset, variant, lr, wanted.seed)
    precision = wanted.precision or run.precision
    run = replace(run, precision=precision, model={**run.model, **wanted.model})
    found = task.find_data(wanted.data, **run.data)
    return run.on(found), found


def _print_result(task: Task, result: Result, console: Console) -> None:
    name = task.metric.name
    parts = [
        f"{split} {name} {'not finite' if values[name] is None else format(values[name], '.4g')}"
        for split, values in result.metrics.items()
        if name in values
    ]
    line = [f"{result.status} after {result.steps} steps in {result.seconds:.1f} s", *parts]
    say(console, ", ".join(line))


class _Bar:
    """A progress bar with the task's metric; without a terminal, a line now and then."""

    def __init__(self, task: Task, console: Console) -> None:
        self.task, self.console = task, console
        self.bar = ProgressBar(
            TextColumn("epoch {task.fields[epoch]}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[metrics]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=120,
        )
        self.id = self.bar.add_task("", total=None, epoch=1, metrics="")
        self.next_line = 0.0

    def __enter__(self) -> "_Bar":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def show(self, progress: Progress) -> None:
        """Show how far the run is."""
        names = ("train_loss", f"train_{self.task.metric.name}", f"val_{self.task.metric.name}")
        metrics = "  ".join(
            f"{name.replace('_', ' ')} {progress.metrics[name]:.4g}"
            for name in (*names, f"test_{self.task.metric.name}")
            if name in progress.metrics
        )
        self.bar.update(
            self.id,
            completed=progress.step,
            total=progress.steps,
            epoch=progress.epoch + 1,
            metrics=metrics,
        )
        if not self.console.is_terminal and self.bar.get_time() >= self.next_line:
            self.next_line = self.bar.get_time() + _LINE_SECONDS
            say(self.console, f"{progress.step}/{progress.steps} steps  {metrics}")
