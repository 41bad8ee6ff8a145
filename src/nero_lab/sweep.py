"""Carry out the runs of a plan on local processes, skipping those that are already recorded."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection

from nero_lab.records.old import RecordStore, RunConfig, RunRecord, RunResult


class WorkerDied(RuntimeError):
    """A process that trained was killed, or crashed without a Python error."""


class RunFailed(RuntimeError):
    """A run raised an error; the error is the cause of this one."""


def run_sweep(
    due: Callable[[], Iterable[RunConfig]],
    store: RecordStore,
    executor: Executor,
    run: Callable[[RunConfig], RunResult],
    on_record: Callable[[RunRecord], None] = lambda record: None,
) -> None:
    """Train everything that is due and not recorded, recording each run as it finishes.

    Args:
        due: the runs known to be needed; asked again after every run that finishes, since a result
            may make others necessary.
        store: where the records are, and go.
        executor: what runs them, see `local_processes`.
        run: trains one of them.
        on_record: told of each new record.

    Raises:
        WorkerDied: a process died. What was recorded stays.
        RunFailed: a run raised an error. What was recorded stays.
    """
    pending: dict[Future[RunResult], RunConfig] = {}
    submitted: set[str] = set()

    def submit_new() -> None:
        for config in due():
            if config.run_id not in submitted and store.get(config) is None:
                submitted.add(config.run_id)
                pending[executor.submit(run, config)] = config

    def record_finished() -> None:
        """Record what has a result, and leave what failed for later."""
        for future in [future for future in pending if _succeeded(future)]:
            record = RunRecord(pending.pop(future), future.result())
            store.append(record)
            on_record(record)

    submit_new()
    try:
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            record_finished()
            for future in finished & pending.keys():
                _raise_failure(future, pending[future])
            submit_new()
    finally:
        # Runs that finished while another one failed, or while Ctrl-C was on its way.
        record_finished()


def _succeeded(future: "Future[RunResult]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _raise_failure(future: "Future[RunResult]", config: RunConfig) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a process that was training died, killed perhaps for want of memory"
        ) from error
    except Exception as error:
        raise RunFailed(f"{config} failed: {type(error).__name__}: {error}") from error


@contextmanager
def local_processes(jobs: int):
    """Yield an executor of `jobs` processes with one thread each; on an error they stop at once.

    Results do not depend on `jobs`: each run is computed in one process, in one thread.
    """
    # Forking a process that has threads, as torch makes, can deadlock the child.
    context = multiprocessing.get_context("spawn")
    # The other end of this pipe closes when it is told to, and also when this process is killed.
    # An Event would not do: setting one waits for ever on a process that died while waiting for it.
    reader, writer = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_worker, initargs=(reader,)
    )
    try:
        yield executor
    except BaseException:
        writer.close()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


def _start_worker(until_closed: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; the main one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_when_closed, args=(until_closed,), daemon=True).start()

    from nero_lab.training.devices import limit_to_one_thread

    limit_to_one_thread()


def _exit_when_closed(connection: Connection) -> None:
    # A process that trains owns no files, and may go at any moment.
    connection.poll(None)
    os._exit(1)


def train_in_worker(config: RunConfig) -> RunResult:
    """Train one run in a process of `local_processes`."""
    from nero_lab.train import train

    return train(config)
