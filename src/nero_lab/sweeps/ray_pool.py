"""A pool of the workers of a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nero_lab.experiments.run import Result
from nero_lab.sweeps.jobs import Event, Job, Work, train_job

_WAIT_SECONDS = 0.5
_OBJECT_STORE_BYTES = 100 * 2**20
"""For a cluster that is started here: jobs and results are a few kilobytes."""


class RayPool:
    """One CPU of a Ray cluster for each job, see `nero_lab.sweeps.jobs.Pool`.

    The workers need this package, and tasks and data under the same paths as here.

    Args:
        jobs: how many CPUs at most.
        work: what is done with a job.
    """

    def __init__(self, jobs: int, work: Work = train_job) -> None:
        import ray
        import ray.exceptions

        self._ray, self._errors = ray, ray.exceptions
        # Retries are those of `run_jobs`, the same for every pool.
        self._remote = ray.remote(num_cpus=1, max_retries=0)(_do)
        self._work = work
        self._jobs = jobs
        self._queue: list[Job] = []
        self._running: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    def wait(self) -> list[Event]:
        """Return what has happened, waiting for it for half a second at most."""
        events = []
        while self._queue and len(self._running) < self._jobs:
            job = self._queue.pop(0)
            self._running[self._remote.remote(job, self._work)] = job
            events.append(Event("started", job))
        if events or not self._running:
            return events
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_WAIT_SECONDS)
        return [self._outcome(reference, self._running.pop(reference)) for reference in done]

    def _outcome(self, reference: Any, job: Job) -> Event:
        errors = self._errors
        try:
            return Event("finished", job, result=self._ray.get(reference))
        except errors.RayTaskError as error:
            cause = error.cause
            return Event("failed", job, error=f"{type(cause).__name__}: {cause}")
        except errors.RayError as error:
            return Event("died", job, error=type(error).__name__)


def _do(job: Job, work: Work) -> Result:
    return work(job, lambda progress: None)


@contextmanager
def ray_pool(jobs: int, work: Work = train_job, address: str | None = None) -> Iterator[RayPool]:
    """Yield a pool of a cluster, and leave the cluster at the end.

    Args:
        jobs: how many CPUs at most.
        work: what is done with a job.
        address: of the cluster; None: $RAY_ADDRESS, and without it a cluster that is started here
            and ends with the pool.
    """
    # Asked for by nobody: figures about its use go to Ray's makers by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {
        "num_cpus": jobs,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    ray.init(address=address, log_to_driver=False, **({} if address else own))
    try:
        yield RayPool(jobs, work)
    finally:
        ray.shutdown()
