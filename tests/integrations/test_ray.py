"""The same sweep on a Ray cluster of two workers, one of which is killed."""

from pathlib import Path

import pytest

from lab.fake_runs import FakeMaker, die_once, made_up, some_runs
from nero_lab.records.store import Records
from nero_lab.sweeps.jobs import run_jobs
from nero_lab.sweeps.ray_pool import ray_pool


@pytest.mark.slow  # a cluster is started
def test_a_cluster_that_loses_a_worker_gives_the_records_of_an_undisturbed_sweep(
    tmp_path: Path, monkeypatch
):
    # Ray kills workers where the machine's memory is nearly full, whoever uses it.
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    runs = some_runs(seeds=2)
    maker, records, kinds = FakeMaker(tmp_path), Records(tmp_path), []
    with ray_pool(2, die_once) as pool:
        lost = run_jobs(lambda: runs, records, pool, maker, lambda event: kinds.append(event.kind))
    assert lost == []
    assert kinds.count("died") == 2
    found = {record.run.run_id: record.result.weights for record in records.of_task("deep-mlp")}
    on_data = [maker.make(run).run for run in runs]
    assert found == {run.run_id: made_up(run).weights for run in on_data}
