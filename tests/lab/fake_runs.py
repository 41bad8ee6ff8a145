"""Stand-ins for training that a spawned process can import."""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lab.tiny_task import Blobs
from nero_lab.data.found import FoundData
from nero_lab.experiments.run import Result, Run, plan_run
from nero_lab.sweeps.jobs import Job, JobMaker
from nero_lab.sweeps.local_pool import local_pool
from nero_lab.tasks.table import load_task
from nero_lab.training.context import Context, Progress
from nero_lab.training.loop import train_run


@dataclass
class FakeMaker(JobMaker):
    """Needs no data."""

    def make(self, run: Run) -> Job:
        run = run.on(FoundData("none", "0"))
        return Job(run, run.task, checkpoints=self.out / "checkpoints" / run.run_id)


def some_runs(seeds: int) -> list[Run]:
    """Return tiny runs at two learning rates."""
    task = load_task("deep-mlp")
    preset = task.presets["tiny"]
    return [
        plan_run(task, preset, preset.variants[0], lr, seed)
        for lr in (0.01, 0.1)
        for seed in range(seeds)
    ]


def made_up(run: Run) -> Result:
    """Return a result that depends on the configuration alone."""
    digest = hashlib.sha256(run.run_id.encode()).hexdigest()
    value = int(digest[:4], 16) / 0xFFFF
    parts = {"val": {"accuracy": value}, "test": {"accuracy": value}}
    return Result("finished", 1, 1.0, parts, {}, digest)


def leave_process_id(job: Job, report: Callable[[Progress], None]) -> Result:
    """Make up a result, and leave the id of this process in a file."""
    assert job.checkpoints is not None
    job.checkpoints.mkdir(parents=True)
    (job.checkpoints / "process").write_text(str(os.getpid()))
    return made_up(job.run)


def die_once(job: Job, report: Callable[[Progress], None]) -> Result:
    """Die as when memory runs out, the first time for each run of seed 0; make up the rest."""
    assert job.checkpoints is not None
    mark = Path(job.checkpoints)
    if job.run.seed == 0 and not mark.exists():
        mark.mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return made_up(job.run)


def die_always(job: Job, report: Callable[[Progress], None]) -> Result:
    """Die for seed 0, raise an error for seed 1, and make up the rest."""
    if job.run.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.run.seed == 1:
        raise ZeroDivisionError("no")
    return made_up(job.run)


def never_end(job: Job, report: Callable[[Progress], None]) -> Result:
    """Run until it is killed; the step reported is the id of this process."""
    report(Progress(job.run, os.getpid(), 2, 0, {}))
    time.sleep(3600)
    return made_up(job.run)


def own_pool(job: Job, file: Path) -> None:
    """Make a pool with a job that does not end, and write the id of its process to a file."""
    with local_pool(1, never_end) as pool:
        pool.submit(job)
        while True:
            for event in pool.wait():
                if event.progress is not None:
                    unfinished = file.with_suffix(".tmp")
                    unfinished.write_text(str(event.progress.step))
                    unfinished.rename(file)


def train_and_report(run: Run, folder: Path, connection: Connection) -> None:
    """Train in a process that may be killed at any moment; each step is announced and awaited."""
    torch.set_num_threads(1)

    class Reporting(Blobs):
        def training_step(self, *args: Any, **options: Any) -> Any:
            connection.send(None)
            connection.recv()
            return super().training_step(*args, **options)

    context = Context(accelerator="cpu", checkpoints=folder, save_steps=1)
    connection.send(train_run(Reporting(), run, context))


def give_command(arguments: list[str], environment: dict[str, str]) -> None:
    """Give a `nero` command in this process."""
    from nero_lab.cli.app import app

    os.environ.update(environment)
    app(arguments)
