"""The study of generalisation as a whole: grid, records, findings, tables, and the command."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.tiny_data import write_fashion_mnist
from nero_lab.analysis.prediction import Interval
from nero_lab.cli.app import app
from nero_lab.experiments.run import Result
from nero_lab.records.store import Record, Records
from nero_lab.studies.generalisation import grid
from nero_lab.studies.generalisation.findings import find, gap
from nero_lab.studies.generalisation.grid import AXES, QUICK, WHOLE, Grid, setting
from nero_lab.studies.generalisation.information import information
from nero_lab.studies.generalisation.margins import cases
from nero_lab.studies.generalisation.table import study_tables
from nero_lab.sweeps.jobs import Event, Job, train_job
from nero_lab.tasks.controlled_margin import TINY
from nero_lab.tasks.even_odd import EvenOdd
from nero_lab.tasks.network_measures import MEASURES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashion_mnist(tmp_path_factory.mktemp("fashion"))


class Serial:
    """A pool that trains in this process."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def __enter__(self) -> "Serial":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self) -> list[Event]:
        job = self.jobs.pop(0)
        return [Event("finished", job, result=train_job(job, lambda progress: None))]


def test_the_grid_is_that_of_the_page() -> None:
    runs = WHOLE.runs()
    assert len({run.run_id for run in runs}) == len(runs) == 2 * 2 * 3 * 3 * 2 * 2 * 3
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    for run in runs:
        where = setting(run)
        assert [*where] == [*AXES, "seed"]
        assert all(where[axis] in getattr(WHOLE, axis) for axis in AXES)
        assert (run.epochs, run.data["train_size"], run.schedule["kind"]) == (200, 2000, "linear")
        assert (run.optimizer_options["beta"], run.optimizer_options["momentum"]) == (0.9, 0.9)


def fake_records(of: Grid, unfitted: int = 0) -> list[Record]:
    """Records in which the gap grows with width alone, and each measure as the number of weights.

    The first `unfitted` of them were not fitted.
    """
    records = []
    for index, run in enumerate(of.runs()):
        error = run.model["width"] / 100
        metrics = {"train": {"error": 0.0}, "test": {"error": error}}
        if index >= unfitted:
            metrics["measures"] = {each.name: float(run.model["width"]) for each in MEASURES}
            metrics["bounds"] = {"information_bound": 0.4}
        records.append(Record(run, Result("finished", 1, 1.0, metrics, {}), environment={}))
    return records


def test_findings_of_a_measure_that_follows_the_gap() -> None:
    found = find(fake_records(QUICK, unfitted=3), draws=50)
    assert len(found.networks) == len(QUICK.runs()) - 3
    assert sum(found.failed.values()) == 3
    for each in found.predictions:
        # Along width it is always right, along the others it does not change.
        assert each.psi_of["width"] == Interval(1.0, 1.0, 1.0)
        assert each.psi_of["lr"].value == 0
        expected = {1: ("predicted", ["width"], []), -1: ("wrong sign", [], ["width"])}
        found_signs = each.verdict, each.along(1), each.along(-1)
        assert found_signs == expected[each.measure.sign]


def test_the_gap_is_that_on_labels_as_noisy_as_those_of_training() -> None:
    assert gap(0.1, 0.0) == 0.1
    assert gap(0.1, 1.0) == 0.5
    assert gap(0.1, 0.5) == pytest.approx(0.5 * 0.1 + 0.5 * 0.5)


def test_tables_name_every_measure_bound_and_failure() -> None:
    tables = study_tables(find(fake_records(QUICK, unfitted=1), draws=20))
    assert all(f"| {each.title} |" in tables for each in MEASURES)
    assert "31 networks fitted all their labels; 1 did not." in tables
    first = setting(QUICK.runs()[0])
    assert f"| {' | '.join(f'{first[axis]:g}' for axis in AXES)} | 1 |" in tables
    assert "| information content, all wide networks that fit | 0.400 |" in tables


def study(name: str, folder: Path, out: Path) -> str:
    """What `nero study NAME --quick` prints, trained in this process."""
    command = ["study", name, "--quick", "--data", str(folder), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_study_trains_records_resumes_and_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"width": (16,), "noise": (0.0,), "lr": (0.01, 0.03), "scale": (1.0,), "seeds": (0,)}
    monkeypatch.setattr(grid, "QUICK", replace(QUICK, **few))
    monkeypatch.setattr("nero_lab.sweeps.grid.open_pool", lambda *where: Serial)
    assert "test error" in study("generalisation", folder, tmp_path)
    output = study("generalisation", folder, tmp_path)
    assert "All 2 runs are recorded already." in output
    records = Records(tmp_path).of_task("even-odd")
    assert len(records) == 2
    for record in records:
        metrics = record.result.metrics
        assert metrics["train"] == {"error": 0}
        assert [*metrics["measures"]] == [each.name for each in MEASURES]
        assert record.result.curves["train_error"][-1] == 0
        assert record.result.curves["angle_layers.0_0.5"][-1] > 0
    assert (tmp_path / "table.md").read_text("utf-8") in output
    for name in ("measures.png", "turning.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_published_comparisons_stand_beside_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nero_lab.sweeps.grid.open_pool", lambda *where: Serial)
    output = study("margins", folder, tmp_path)
    table = (tmp_path / "table.md").read_text("utf-8")
    assert table in output
    for case in cases(TINY, voters=3, attack_size=40):
        published = "-" if case.published is None else f"{case.published:.3f}"
        assert f"| {case.what} | {published} | 0." in table
    assert "| bound on the test error from the estimator, random labels | 0.546 | 0." in table
    single = {
        record.run.data["attack_size"]: record.result.metric("test", "error")
        for record in Records(tmp_path).of_task("controlled-margin")
        if record.run.loss["scale"] == 0.3
    }
    assert single[40] > single[0]


def test_random_labels_hold_more_information(folder: Path) -> None:
    found = EvenOdd().find_data(folder)
    true, coins = (
        information(found, random=random, seed=0, examples=100, depth=3) for random in (False, True)
    )
    for each in (true, coins):
        assert each.estimate <= each.best_scale <= each.closed_form
    assert true.closed_form < coins.estimate
