"""The same sweep on a Ray cluster of two workers, one of which is killed."""

from pathlib import Path

import pytest

from lab.fake_runs import die_once, made_up
from nero_lab.data.found import FoundData
from nero_lab.experiments.run import Run, plan_run
from nero_lab.records.store import Records
from nero_lab.sweeps.jobs import Job, JobMaker, run_jobs
from nero_lab.sweeps.ray_pool import ray_pool
from nero_lab.tasks.table import load_task


class FakeMaker(JobMaker):
    """Needs no data."""

    def make(self, run: Run) -> Job:
        run = run.on(FoundData("none", "0"))
        return Job(run, run.task, checkpoints=self.out / "checkpoints" / run.run_id)


@pytest.mark.slow  # a cluster is started
def test_a_cluster_that_loses_a_worker_gives_the_records_of_an_undisturbed_sweep(
    tmp_path: Path, monkeypatch
):
    # Ray kills workers where the machine's memory is nearly full, whoever uses it.
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    task = load_task("deep-mlp")
    preset = task.presets["tiny"]
    runs = [
        plan_run(task, preset, preset.variants[0], lr, seed) for lr in (0.1, 1) for seed in (0, 1)
    ]
    maker, records, kinds = FakeMaker(tmp_path), Records(tmp_path), []
    with ray_pool(2, die_once) as pool:
        lost = run_jobs(lambda: runs, records, pool, maker, lambda event: kinds.append(event.kind))
    assert lost == []
    assert kinds.count("died") == 2
    found = {record.run.run_id: record.result.weights for record in records.of_task("deep-mlp")}
    on_data = [maker.make(run).run for run in runs]
    assert found == {run.run_id: made_up(run).weights for run in on_data}
