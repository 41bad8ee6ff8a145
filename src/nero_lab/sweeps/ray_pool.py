"""A pool of the workers of a Ray cluster."""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from nero_lab.sweeps.futures_pool import FuturesPool, do_job
from nero_lab.sweeps.jobs import Event, Job, Work, train_job

_OBJECT_STORE_BYTES = 100 * 2**20
"""For a cluster that is started here: jobs and results are a few kilobytes."""


class RayPool(FuturesPool):
    """One CPU of a Ray cluster for each job, see `nero_lab.sweeps.jobs.Pool`.

    The workers need this package, and tasks and data under the same paths as here.

    Args:
        jobs: how many CPUs at most.
        work: what is done with a job.
    """

    def __init__(self, jobs: int, work: Work = train_job) -> None:
        import ray
        import ray.exceptions

        super().__init__(jobs, ray.exceptions.RayError)
        # Retries are those of `run_jobs`, the same for every pool.
        self._remote: Any = ray.remote(num_cpus=1, max_retries=0)(_do)
        self._work = work

    def start(self, job: Job) -> Future[Event]:
        """Return the future of a job; Ray starts it where a CPU is free."""
        return self._remote.remote(job, self._work).future()


def _do(job: Job, work: Work) -> Event:
    return do_job(job, work, lambda progress: None)


@contextmanager
def ray_pool(jobs: int, work: Work = train_job, address: str | None = None) -> Iterator[RayPool]:
    """Yield a pool of a cluster, and leave the cluster at the end.

    Args:
        jobs: how many CPUs at most.
        work: what is done with a job.
        address: of the cluster; None: $RAY_ADDRESS, and without it a cluster that is started here
            and ends with the pool.
    """
    # Ray sends figures about its use to its makers unless it is asked not to.
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
