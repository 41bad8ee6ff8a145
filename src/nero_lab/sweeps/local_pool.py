"""A pool of processes of this machine."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from nero_lab.sweeps.jobs import Event, Job, Work, train_job
from nero_lab.training.context import Progress

_REPORT_SECONDS = 0.5
_WAIT_SECONDS = 0.5


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


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    """jobs go there, events come back"""
    lifeline: Connection
    """its closing, also by the death of this process, ends the worker"""
    job: Job | None = None


class LocalPool:
    """Processes with one thread each, see `nero_lab.sweeps.jobs.Pool`.

    Args:
        jobs: how many processes.
        work: what they do with a job.
    """

    def __init__(self, jobs: int, work: Work = train_job) -> None:
        self._work = work
        self._queue: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._jobs = jobs
        self._context = _context()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    def wait(self) -> list[Event]:
        """Return what has happened, waiting for it for half a second at most."""
        events = self._start_jobs()
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in [] if events else wait(list(by_connection), _WAIT_SECONDS):
            assert isinstance(connection, Connection)
            events += self._read(by_connection[connection])
        return events

    def _start_jobs(self) -> list[Event]:
        while len(self._workers) < min(self._jobs, len(self._queue) + self._busy()):
            self._workers.append(self._new_worker())
        events = []
        for worker in self._workers:
            if worker.job is None and self._queue:
                job = self._queue.popleft()
                try:
                    worker.connection.send(job)
                except OSError:  # it died while it was idle; `_read` will notice
                    self._queue.appendleft(job)
                    continue
                worker.job = job
                events.append(Event("started", job))
        return events

    def _busy(self) -> int:
        return sum(worker.job is not None for worker in self._workers)

    def _new_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        until_closed, lifeline = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_serve, args=(theirs, until_closed, self._work), daemon=True
        )
        process.start()
        # Without copies of its ends here, its death closes the pipe.
        theirs.close()
        until_closed.close()
        return _Worker(process, ours, lifeline)

    def _read(self, worker: _Worker) -> list[Event]:
        """Return what a worker has sent, or that it died."""
        try:
            event: Event = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.lifeline.close()
            worker.process.join()
            code = worker.process.exitcode
            reason = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return [] if worker.job is None else [Event("died", worker.job, error=reason)]
        if event.kind != "moved":
            worker.job = None
        return [event]

    def process_ids(self) -> list[int]:
        """Return the ids of the processes, for those who want to kill one."""
        return [pid for worker in self._workers if (pid := worker.process.pid) is not None]

    def close(self) -> None:
        """End the workers at once, whatever they do."""
        for worker in self._workers:
            worker.lifeline.close()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()


@contextmanager
def local_pool(jobs: int, work: Work = train_job) -> Iterator[LocalPool]:
    """Yield a pool that is closed at the end."""
    pool = LocalPool(jobs, work)
    try:
        yield pool
    finally:
        pool.close()


def _serve(connection: Connection, until_closed: Connection, work: Work) -> None:
    """Do jobs until the other end of the pipe is closed."""
    # Ctrl-C reaches every process of the terminal; the main one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_when_closed, args=(until_closed,), daemon=True).start()
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        connection.send(_do(job, work, connection))


def _do(job: Job, work: Work, connection: Connection) -> Event:
    told = 0.0

    def report(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > _REPORT_SECONDS:
            told = time.monotonic()
            connection.send(Event("moved", job, progress=progress))

    try:
        return Event("finished", job, result=work(job, report))
    except Exception as error:
        return Event("failed", job, error=f"{type(error).__name__}: {error}")


def _exit_when_closed(connection: Connection) -> None:
    # A worker's files are whole at any moment, see `Checkpoints`: it may go at once.
    connection.poll(None)
    os._exit(1)
