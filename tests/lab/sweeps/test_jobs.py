"""Sweeps: each run once, whatever dies."""

import contextlib
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lab.fake_runs import (
    FakeMaker,
    die_always,
    die_once,
    leave_process_id,
    made_up,
    never_end,
    own_pool,
    some_runs,
)
from nero_lab.experiments.run import Result, Run
from nero_lab.records.store import Record, Records
from nero_lab.sweeps.futures_pool import do_job
from nero_lab.sweeps.jobs import (
    RETRIES,
    Event,
    Job,
    _recorded_meanwhile,
    run_jobs,
)
from nero_lab.sweeps.local_pool import LocalPool, local_pool
from nero_lab.training.checkpoints import only_process


@pytest.fixture
def runs() -> list[Run]:
    return some_runs(seeds=3)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "records")


@pytest.fixture
def maker(tmp_path: Path) -> FakeMaker:
    return FakeMaker(tmp_path)


class ThisProcess:
    """A pool that works when it is waited for, one job at a time."""

    def __init__(self, outcome=lambda job: Event("finished", job, result=made_up(job.run))) -> None:
        self.outcome = outcome
        self.queue: list[Job] = []
        self.submitted: list[str] = []

    def submit(self, job: Job) -> None:
        self.queue.append(job)
        self.submitted.append(job.run.run_id)

    def wait(self) -> list[Event]:
        job = self.queue.pop(0)
        return [Event("started", job), self.outcome(job)]


def recorded(records: Records) -> dict[str, str]:
    """Return what was measured, by run, without times."""
    return {r.run.run_id: r.result.weights for r in records.of_task("deep-mlp")}


def expected(runs: Sequence[Run], maker: FakeMaker) -> dict[str, str]:
    found = [maker.make(run).run for run in runs]
    return {run.run_id: made_up(run).weights for run in found}


def test_each_run_is_trained_and_recorded_once(runs, records, maker):
    pool = ThisProcess()
    assert run_jobs(lambda: runs, records, pool, maker) == []
    assert recorded(records) == expected(runs, maker)
    again = ThisProcess()
    run_jobs(lambda: [*runs, replace(runs[0], seed=9)], records, again, maker)
    assert len(again.submitted) == 1
    lines = (records.folder / "deep-mlp.jsonl").read_text().splitlines()
    assert len(lines) == len(runs) + 1


def test_results_make_others_necessary(runs, records, maker):
    def due() -> list[Run]:
        return runs[: 1 + len(records.of_task("deep-mlp"))]

    run_jobs(due, records, ThisProcess(), maker)
    assert recorded(records) == expected(runs, maker)


def test_a_record_is_reported_once_it_is_on_the_disk(runs, records, maker):
    seen = []

    def on_event(event: Event) -> None:
        if event.kind == "recorded":
            seen.append(Records(records.folder).get(event.job.run) is not None)

    run_jobs(lambda: runs, records, ThisProcess(), maker, on_event)
    assert seen == [True] * len(runs)


def test_a_run_whose_worker_dies_is_tried_again_twice_and_the_others_go_on(runs, records, maker):
    def outcome(job: Job) -> Event:
        if job.run.seed == 0:
            return Event("died", job, error="signal 9")
        return Event("finished", job, result=made_up(job.run))

    pool = ThisProcess(outcome)
    lost = run_jobs(lambda: runs, records, pool, maker)
    assert [event.job.run.seed for event in lost] == [0, 0]
    for event in lost:
        assert pool.submitted.count(event.job.run.run_id) == 1 + RETRIES
    assert recorded(records) == expected([run for run in runs if run.seed], maker)


def test_an_error_of_a_run_is_not_tried_again_and_the_others_go_on(runs, records, maker):
    def outcome(job: Job) -> Event:
        if job.run == maker.make(runs[0]).run:
            return Event("failed", job, error="ZeroDivisionError: no")
        return Event("finished", job, result=made_up(job.run))

    pool = ThisProcess(outcome)
    (event,) = run_jobs(lambda: runs, records, pool, maker)
    assert event.error == "ZeroDivisionError: no"
    assert len(pool.submitted) == len(runs)
    assert recorded(records) == expected(runs[1:], maker)


def test_two_sweeps_in_one_folder_train_each_run_once(runs, records, maker):
    """The other one has two runs in hand: it records one of them, and is killed at the other."""
    trained = []

    def train(job: Job, report: object) -> Result:
        assert job.checkpoints is not None
        with only_process(job.checkpoints):
            if (known := _recorded_meanwhile(job)) is not None:
                return known
            trained.append(job.run.run_id)
            return made_up(job.run)

    recorded_there, left_there = (maker.make(run) for run in runs[:2])
    others = [only_process(job.checkpoints) for job in (recorded_there, left_there)]
    for other in others:
        other.__enter__()
    pool = ThisProcess(lambda job: do_job(job, train, lambda progress: None))
    seen = []

    def on_event(event: Event) -> None:
        seen.append(event.kind)
        if seen.count("busy") == 3 and others:
            elsewhere = Records(records.folder)
            elsewhere.append(Record(recorded_there.run, made_up(recorded_there.run)))
            while others:
                others.pop().__exit__(None, None, None)

    assert run_jobs(lambda: runs, records, pool, maker, on_event) == []
    assert sorted(trained) == sorted(maker.make(run).run.run_id for run in runs[1:])
    assert recorded(records) == expected(runs, maker)
    lines = (records.folder / "deep-mlp.jsonl").read_text().splitlines()
    assert len(lines) == len(runs)


def test_ctrl_c_keeps_what_is_finished(runs, records, maker):
    def on_event(event: Event) -> None:
        if len(recorded(records)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(lambda: runs, records, ThisProcess(), maker, on_event)
    kept = Records(records.folder)
    assert len(recorded(kept)) == 2
    pool = ThisProcess()
    run_jobs(lambda: runs, kept, pool, maker)
    assert len(pool.submitted) == len(runs) - 2
    assert recorded(kept) == expected(runs, maker)


def test_processes_give_the_records_that_an_undisturbed_sweep_gives(runs, records, maker):
    kinds = []
    with local_pool(2, die_once) as pool:
        lost = run_jobs(lambda: runs, records, pool, maker, lambda e: kinds.append(e.kind))
    assert lost == []
    assert kinds.count("died") == 2
    assert recorded(records) == expected(runs, maker)


def test_processes_report_death_and_error(runs, records, maker):
    with local_pool(1, die_always) as pool:
        lost = run_jobs(lambda: runs[:3], records, pool, maker)
    died, failed = sorted(lost, key=lambda event: event.kind)
    assert (died.kind, failed.kind) == ("died", "failed")
    assert died.error.startswith("BrokenProcessPool: ")
    assert failed.error == "ZeroDivisionError: no"
    assert recorded(records) == expected(runs[2:3], maker)


def started_process(pool: LocalPool, job: Job) -> tuple[list[str], psutil.Process]:
    """Give a pool the job `never_end`; return what it reports at first, and the job's process."""
    pool.submit(job)
    events: list[Event] = []
    while len(events) < 2:
        events += pool.wait()
    assert events[1].progress is not None
    return [event.kind for event in events], psutil.Process(events[1].progress.step)


def wait_for_end(process: psutil.Process) -> None:
    """Wait until a process runs no more; one that nobody reaps stays as a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


def test_processes_report_progress_and_end_with_the_pool(runs, maker):
    with local_pool(1, never_end) as pool:
        kinds, process = started_process(pool, maker.make(runs[0]))
        assert kinds == ["started", "moved"]
    wait_for_end(process)


def test_a_death_leaves_the_other_processes_alone(runs, maker):
    with local_pool(2, never_end) as pool:
        _, first = started_process(pool, maker.make(runs[0]))
        _, second = started_process(pool, maker.make(runs[1]))
        first.kill()
        events: list[Event] = []
        while not events:
            events = pool.wait()
        assert [event.kind for event in events] == ["died"]
        assert events[0].job == maker.make(runs[0])
        assert second.is_running()


def test_processes_end_with_the_one_that_made_them(runs, maker, tmp_path):
    main = multiprocessing.get_context("forkserver").Process(
        target=own_pool, args=(maker.make(runs[0]), tmp_path / "process")
    )
    main.start()
    while not (tmp_path / "process").exists():
        assert main.is_alive()
        main.join(0.1)
    worker = psutil.Process(int((tmp_path / "process").read_text()))
    main.kill()
    main.join()
    wait_for_end(worker)


def test_a_process_killed_while_idle_costs_nothing(runs, records, maker, tmp_path):
    with local_pool(1, leave_process_id) as pool:
        for known in (runs[:1], runs[:2]):
            assert run_jobs(lambda known=known: known, records, pool, maker) == []
            (file,) = (tmp_path / "checkpoints").rglob("process")
            process = psutil.Process(int(file.read_text()))
            process.kill()
            wait_for_end(process)
            file.unlink()
    assert recorded(records) == expected(runs[:2], maker)
