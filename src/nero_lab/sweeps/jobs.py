"""Many runs: what is due is trained by a pool of workers, and recorded as it finishes.

A worker may die at any moment, killed for want of memory perhaps. Its run then goes to another one,
twice at most; the runs of the others are not touched. What another process trains in the same place
comes later: by then it is recorded, or free.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from nero_lab.data.found import FoundData
from nero_lab.experiments.run import Result, Run
from nero_lab.records.store import Record, Records
from nero_lab.tasks.table import load_task
from nero_lab.training.checkpoints import Checkpoints, only_process
from nero_lab.training.context import Context, Progress

_BUSY_SECONDS = 1.0
RETRIES = 2
"""How often a run is tried again whose worker died."""


@dataclass(frozen=True)
class Job:
    """A run for a worker, with what it needs to find task and data again."""

    run: Run
    """on a data set that was found"""
    task: str
    """what `load_task` finds it by"""
    data_folder: Path | None = None
    checkpoints: Path | None = None
    weights: Path | None = None
    """file for the final weights, where other runs start from them"""
    start: Path | None = None
    """file of the weights that it starts from"""
    accelerator: str = "auto"
    stand_in_for: str | None = None
    records: Path | None = None
    """the folder of records, to which another process may have added the run"""


@dataclass(frozen=True)
class Event:
    """What happened to a job."""

    kind: Literal["started", "moved", "finished", "busy", "failed", "died", "recorded"]
    """"busy": another process trains it; "died": its worker did; both may be submitted again;
    "failed": it raised an error; "recorded": it was finished, and its record is on the disk"""
    job: Job
    progress: Progress | None = None
    result: Result | None = None
    error: str = ""


Work = Callable[[Job, Callable[[Progress], None]], Result]
"""what a worker does with a job; the second argument takes the progress"""


class Pool(Protocol):
    """Workers, each with one job at a time."""

    def submit(self, job: Job) -> None:
        """Queue a job."""
        ...

    def wait(self) -> list[Event]:
        """Return what has happened, waiting for something for a short while."""
        ...


def default_jobs() -> int:
    """Return how many processes train by default: one per core this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def train_job(job: Job, report: Callable[[Progress], None]) -> Result:
    """Train the run of a job in this process, in one thread.

    Raises:
        BusyRun: another process trains it.
    """
    from nero_lab.training.devices import limit_to_one_thread
    from nero_lab.training.loop import train_run

    limit_to_one_thread()
    context = Context(
        data_folder=job.data_folder,
        checkpoints=job.checkpoints,
        weights=job.weights,
        start=job.start,
        accelerator=job.accelerator,
        on_progress=report,
    )
    with nullcontext() if job.checkpoints is None else only_process(job.checkpoints, _BUSY_SECONDS):
        if (known := _recorded_meanwhile(job)) is not None:
            return known
        return train_run(load_task(job.task), job.run, context)


def _recorded_meanwhile(job: Job) -> Result | None:
    """Return the result that another process has recorded, None where there is none."""
    if job.records is None or not (job.weights is None or job.weights.exists()):
        return None
    record = Records(job.records).get(job.run)
    return None if record is None else record.result


@dataclass
class JobMaker:
    """Makes jobs of runs: looks for each task's data once."""

    out: Path
    """for checkpoints and weights"""
    data_folders: dict[str, Path] = field(default_factory=dict)
    """by name of the task, where the user says that its data are"""
    accelerator: str = "auto"
    where: dict[str, str] = field(default_factory=dict)
    """by name of the task, what `load_task` finds it by, for those of users"""
    starts: set[str] = field(default_factory=set)
    """plan_ids of the runs whose final weights others start from"""
    _found: dict[str, FoundData] = field(default_factory=dict)

    def make(self, run: Run) -> Job:
        """Return the job of a run.

        Raises:
            MissingData: its data set is not there.
        """
        where = self.where.get(run.task, run.task)
        folder = self.data_folders.get(run.task)
        key = f"{run.task} {sorted(run.data.items())}"
        if key not in self._found:
            self._found[key] = load_task(where).find_data(folder, **run.data)
        found = self._found[key]
        run = run.on(found)
        return Job(
            run=run,
            task=where,
            data_folder=folder,
            checkpoints=self.out / "checkpoints" / run.run_id,
            weights=self.weights(run.plan_id) if run.plan_id in self.starts else None,
            start=None if run.start is None else self.weights(run.start["run"]),
            accelerator=self.accelerator,
            stand_in_for=found.stand_in_for,
        )

    def weights(self, plan_id: str) -> Path:
        """Return the file of a run's final weights."""
        return self.out / "weights" / f"{plan_id}.pt"

    def can_start(self, run: Run) -> bool:
        """Return whether the weights that a run starts from are there."""
        return run.start is None or self.weights(run.start["run"]).exists()


def run_jobs(
    due: Callable[[], Iterable[Run]],
    records: Records,
    pool: Pool,
    maker: JobMaker,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Event]:
    """Train everything that is due and not recorded, and record each run as it finishes.

    Args:
        due: the runs known to be needed; asked again whenever one was recorded, since its result
            may make others necessary.
        records: where the records are, and go.
        pool: what trains them.
        maker: makes jobs of them.
        on_event: called with everything that happens.

    Returns:
        What failed, or died more often than it is tried again; the others are recorded.
    """
    pending: dict[str, Job] = {}
    deaths: dict[str, int] = {}
    lost: list[Event] = []

    def submit_new() -> None:
        for run in due():
            job = maker.make(run)
            known = job.run.run_id in pending or job.run.run_id in deaths
            if not known and records.get(job.run) is None:
                job = replace(job, records=records.folder)
                pending[job.run.run_id], deaths[job.run.run_id] = job, 0
                pool.submit(job)

    submit_new()
    while pending:
        for event in pool.wait():
            on_event(event)
            run_id = event.job.run.run_id
            match event.kind:
                case "finished":
                    assert event.result is not None
                    _record(records, event.job, event.result)
                    del pending[run_id]
                    on_event(Event("recorded", event.job, result=event.result))
                    submit_new()
                case "died" if deaths[run_id] < RETRIES:
                    deaths[run_id] += 1
                    pool.submit(event.job)
                case "busy":
                    pool.submit(event.job)
                case "died" | "failed":
                    del pending[run_id]
                    lost.append(event)
    return lost


def _record(records: Records, job: Job, result: Result) -> None:
    records.reread(job.run.task)
    if records.get(job.run) is None:
        records.append(Record(job.run, result, data_stands_in_for=job.stand_in_for))
    if job.checkpoints is not None and job.checkpoints.exists():
        Checkpoints(job.checkpoints).clear()
