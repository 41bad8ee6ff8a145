"""Jobs as futures of `concurrent.futures`: what all pools have in common."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from nero_lab.plugins.extras import how_to_install
from nero_lab.sweeps.jobs import Event, Job, Work
from nero_lab.training.checkpoints import BusyRun
from nero_lab.training.context import Progress

_WAIT_SECONDS = 0.5


class FuturesPool:
    """Starts jobs as workers become free, see `nero_lab.sweeps.jobs.Pool`.

    Args:
        jobs: how many at once.
        death: what the future of a job raises whose worker died.
    """

    def __init__(self, jobs: int, death: type[BaseException]) -> None:
        self._jobs = jobs
        self._death = death
        self._queue: deque[Job] = deque()
        self._running: dict[Future[Event], Job] = {}

    def start(self, job: Job) -> Future[Event]:
        """Return the future of a job, which results in the return value of `do_job`."""
        raise NotImplementedError

    def progress(self) -> list[Event]:
        """Return what running jobs have reported since the last call."""
        return []

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    def wait(self) -> list[Event]:
        """Return what has happened, waiting for it for half a second at most."""
        events = []
        while self._queue and len(self._running) < self._jobs:
            job = self._queue.popleft()
            self._running[self.start(job)] = job
            events.append(Event("started", job))
        if events:
            return events
        done, _ = wait(self._running, _WAIT_SECONDS, FIRST_COMPLETED)
        # In this order, so that a job's last progress comes before its end.
        return self.progress() + [self._outcome(future) for future in done]

    def _outcome(self, future: Future[Event]) -> Event:
        job = self._running.pop(future)
        try:
            return future.result()
        except self._death as error:
            return Event("died", job, error=f"{type(error).__name__}: {error}")


def do_job(job: Job, work: Work, report: Callable[[Progress], None]) -> Event:
    """Return that a job finished, failed or is busy.

    What failed is text: not every error can be pickled.
    """
    try:
        return Event("finished", job, result=work(job, report))
    except BusyRun:
        return Event("busy", job)
    except ModuleNotFoundError as error:
        return Event("failed", job, error=how_to_install(error) or str(error))
    except Exception as error:
        return Event("failed", job, error=f"{type(error).__name__}: {error}")
