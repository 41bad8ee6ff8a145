"""A pool of processes of this machine."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from nero_lab.sweeps.futures_pool import FuturesPool, do_job
from nero_lab.sweeps.jobs import Event, Job, Work, train_job
from nero_lab.training.context import Progress

_REPORT_SECONDS = 0.5


class LocalPool(FuturesPool):
    """Processes with one thread each, see `nero_lab.sweeps.jobs.Pool`.

    Args:
        jobs: how many processes.
        work: what they do with a job.
    """

    def __init__(self, jobs: int, work: Work = train_job) -> None:
        super().__init__(jobs, BrokenProcessPool)
        self._work = work
        self._context = _context()
        self._until_closed, self._lifeline = self._context.Pipe(duplex=False)
        self._workers: list[_Worker] = []

    def start(self, job: Job) -> Future[Event]:
        """Return the future of a job in a process that has none."""
        for worker in [worker for worker in self._workers if worker.is_free()]:
            try:
                return worker.start(job, self._work)
            except BrokenProcessPool:  # its process died
                self._workers.remove(worker)
                worker.close()
        worker = _Worker(self._context, self._until_closed)
        self._workers.append(worker)
        return worker.start(job, self._work)

    def progress(self) -> list[Event]:
        """Return what running jobs have reported since the last call."""
        return [event for worker in self._workers for event in worker.progress()]

    def close(self) -> None:
        """End the processes at once, whatever they do."""
        self._lifeline.close()
        for worker in self._workers:
            worker.close()
        self._until_closed.close()


class _Worker:
    """An executor with one process: where several share one, the death of one ends them all."""

    def __init__(self, context: Any, until_closed: Connection) -> None:
        self._reports, self._reporter = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            1, context, initializer=_initialize, initargs=(until_closed, self._reporter)
        )
        self._future: Future[Event] | None = None

    def is_free(self) -> bool:
        return self._future is None or self._future.done()

    def start(self, job: Job, work: Work) -> Future[Event]:
        self._future = self._executor.submit(_do, job, work)
        # The process has started and has its own copy: without this one its death closes the pipe.
        self._reporter.close()
        return self._future

    def progress(self) -> Iterator[Event]:
        try:
            while self._reports.poll():
                yield self._reports.recv()
        except (EOFError, OSError):  # it died, perhaps in the middle of a report
            return

    def close(self) -> None:
        self._executor.shutdown()
        self._reports.close()


@contextmanager
def local_pool(jobs: int, work: Work = train_job) -> Iterator[LocalPool]:
    """Yield a pool that is closed at the end."""
    pool = LocalPool(jobs, work)
    try:
        yield pool
    finally:
        pool.close()


def _context() -> Any:
    """Return how processes are started: by a server that has imported torch, where there is one.

    Forking a process that has threads, as torch makes once it computes, can deadlock the child.
    The server computes nothing, and its children need no seconds for the import.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nero_lab.training.loop"])
    return context


_reporter: Connection
"""of a worker's process, made by `_initialize`"""


def _initialize(until_closed: Connection, reporter: Connection) -> None:
    """Prepare the process of a worker."""
    global _reporter
    _reporter = reporter
    # Ctrl-C reaches every process of the terminal; the main one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_when_closed, args=(until_closed,), daemon=True).start()


def _exit_when_closed(connection: Connection) -> None:
    # Closed by `LocalPool.close` and by the death of its process. A worker's files are whole at
    # any moment, see `Checkpoints`: it may go at once.
    connection.poll(None)
    os._exit(1)


def _do(job: Job, work: Work) -> Event:
    last = -_REPORT_SECONDS

    def report(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            _reporter.send(Event("moved", job, progress=progress))

    return do_job(job, work, report)
