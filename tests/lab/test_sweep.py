import dataclasses
import time
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from lab.fake_runs import end_by_seed
from nero_lab.plan import Plan, Preset
from nero_lab.records.old import RecordStore, RunConfig, RunResult
from nero_lab.results import markdown_table, table_rows
from nero_lab.sweep import RunFailed, WorkerDied, local_processes, run_sweep, train_in_worker


class FakeTraining:
    """Makes up a result from the configuration, counts its runs, and can be interrupted."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.trained: list[str] = []
        self.interrupt_after = interrupt_after

    def __call__(self, config: RunConfig) -> RunResult:
        if len(self.trained) == self.interrupt_after:
            raise KeyboardInterrupt
        self.trained.append(config.run_id)
        accuracy = int(config.run_id[:4], 16) / 0xFFFF
        return RunResult("finished", 1, 1.0, accuracy, accuracy, accuracy, {"val_metric": []})


def _sweep(plan: Plan, store: RecordStore, training: FakeTraining) -> None:
    with ThreadPoolExecutor(1) as executor:
        try:
            run_sweep(lambda: plan.due(store.get), store, executor, training)
        finally:
            executor.shutdown(cancel_futures=True)


def test_trains_what_results_make_necessary_and_each_run_once(preset: Preset, store: RecordStore):
    plan, training = Plan(preset), FakeTraining()
    _sweep(plan, store, training)
    assert plan.remaining_at_most(store.get) == []
    assert sorted(training.trained) == sorted({run.run_id for run in plan.due(store.get)})
    assert len(store.path.read_text().splitlines()) == len(training.trained)


def test_trains_nothing_that_is_recorded(preset: Preset, store: RecordStore):
    _sweep(Plan(preset), store, FakeTraining())
    again = FakeTraining()
    _sweep(Plan(preset), RecordStore(store.path), again)
    assert again.trained == []


def test_interrupted_then_resumed_gives_the_same_table(
    preset: Preset, store: RecordStore, tmp_path
):
    plan = Plan(preset)
    interrupted = FakeTraining(interrupt_after=5)
    with pytest.raises(KeyboardInterrupt):
        _sweep(plan, store, interrupted)
    kept = RecordStore(store.path)
    assert sorted(kept.records) == sorted(interrupted.trained)
    assert "of 3 seeds" in markdown_table(table_rows(plan, kept.get))

    resumed = FakeTraining()
    _sweep(plan, kept, resumed)
    assert not set(resumed.trained) & set(interrupted.trained)

    unbroken = RecordStore(tmp_path / "unbroken" / "records.jsonl")
    _sweep(plan, unbroken, FakeTraining())
    assert markdown_table(table_rows(plan, kept.get)) == markdown_table(
        table_rows(plan, unbroken.get)
    )


def test_failure_of_one_run_does_not_lose_another(store: RecordStore, config: RunConfig):
    training = FakeTraining()
    failing = dataclasses.replace(config, seed=1)

    def train(config: RunConfig) -> RunResult:
        if config == failing:
            raise ZeroDivisionError
        return training(config)

    with ThreadPoolExecutor(1) as executor, pytest.raises(RunFailed, match="seed 1"):
        run_sweep(lambda: [config, failing], store, executor, train)
    assert list(store.records) == [config.run_id]


def test_run_that_finishes_during_ctrl_c_is_kept(store: RecordStore, config: RunConfig):
    runs = [config, dataclasses.replace(config, seed=1)]
    with ThreadPoolExecutor(1) as executor:

        def interrupt_when_both_are_done(record) -> None:
            executor.shutdown(wait=True)
            if len(store.records) == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_sweep(lambda: runs, store, executor, FakeTraining(), interrupt_when_both_are_done)
    assert len(store.records) == 2


def test_failed_run_is_named(store: RecordStore, config: RunConfig):
    def fail(config: RunConfig) -> RunResult:
        raise ZeroDivisionError("no")

    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(RunFailed, match=r"adam .* ZeroDivisionError: no"),
    ):
        run_sweep(lambda: [config], store, executor, fail)


def test_death_of_a_process_is_reported_and_ends_the_others(store: RecordStore, config: RunConfig):
    # Seed 1 is there because Python may not notice a death before another run has finished.
    runs = [dataclasses.replace(config, seed=seed) for seed in (1, 0, 2)]
    with pytest.raises(WorkerDied, match="died"), local_processes(2) as executor:
        run_sweep(lambda: runs, store, executor, end_by_seed)
    assert {record.config.seed for record in store.records.values()} <= {1}


def test_ctrl_c_does_not_wait_for_runs_under_way(config: RunConfig):
    def interrupt_once_it_runs(executor: Executor) -> None:
        endless = executor.submit(end_by_seed, dataclasses.replace(config, seed=2))
        while not endless.running():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), local_processes(1) as executor:
        interrupt_once_it_runs(executor)


def test_result_is_the_same_with_one_process_and_with_two(tmp_path, config: RunConfig):
    runs = [dataclasses.replace(config, seed=seed) for seed in range(3)]
    measured = []
    for jobs in (1, 2):
        store = RecordStore(tmp_path / str(jobs) / "records.jsonl")
        with local_processes(jobs) as executor:
            run_sweep(lambda: runs, store, executor, train_in_worker)
        found = [store.records[run.run_id].result for run in runs]
        measured.append([dataclasses.replace(result, seconds=0) for result in found])
    assert measured[0] == measured[1]
