"""`nero paper`: trains what is missing, goes on after an interruption, and shows what is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lab.fake_records import fake_record
from lab.tiny_data import write_fashion_mnist
from nero_lab.analysis.pictures import save_figure
from nero_lab.cli.app import app
from nero_lab.experiments.run import Run
from nero_lab.records.store import Records
from nero_lab.sweeps import grid as sweeping
from nero_lab.sweeps.comparison import Comparison
from nero_lab.sweeps.jobs import Event, Job
from nero_lab.tasks.table import load_task

RUNS = 2 * (4 + 1) + 2
"""Nero and SGD: four rates on the first seed, the default on the second; Nero's best as well."""


class FakePool:
    """Ends each run at once, with a metric that its learning rate decides."""

    def __init__(self, broken: float | None = None, interrupt_after: int = 10**9) -> None:
        self.queue: list[Job] = []
        self.trained: list[Run] = []
        self.broken, self.interrupt_after = broken, interrupt_after

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def wait(self) -> list[Event]:
        if len(self.trained) == self.interrupt_after:
            raise KeyboardInterrupt
        job = self.queue.pop(0)
        if job.run.lr == self.broken:
            return [Event("failed", job, error="it broke")]
        self.trained.append(job.run)
        value = {1e-4: 0.3, 1e-3: 0.5, 1e-2: 0.4, 1e-1: 0.6}[job.run.lr]
        metric = load_task(job.run.task).metric
        return [Event("finished", job, result=fake_record(job.run, metric, value).result)]

    @contextmanager
    def open(self) -> Iterator["FakePool"]:
        yield self


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_fashion_mnist(tmp_path_factory.mktemp("data"))


@pytest.fixture
def nero_paper(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs the command on a made-up pool."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nero_lab.analysis.pictures.save_figure", lambda *_: None)

    def run(*arguments: str, pool: FakePool | None = None) -> Result:
        used = pool or FakePool()
        monkeypatch.setattr(sweeping, "open_pool", lambda *_: used.open)
        options = ["--preset", "tiny", "--data", str(data)]
        return CliRunner().invoke(app, ["paper", *arguments, *options])

    return run


def test_it_trains_the_plan_draws_and_tells(
    nero_paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
):
    monkeypatch.setattr("nero_lab.analysis.pictures.save_figure", save_figure)
    pool = FakePool()
    done = nero_paper("deep-mlp", pool=pool)
    assert done.exit_code == 0, done.output
    assert len(pool.trained) == RUNS
    assert "up to 12 runs to train (time not known yet), 0 recorded" in done.output
    assert "0.6000 [0.6000, 0.6000]" in done.output
    assert f"data of {data.name}, in the place of MNIST" in done.output
    pictures = {path.name for path in (tmp_path / "runs/paper/tiny").iterdir()}
    assert {"fig3.png", "fig3.svg"} <= pictures
    assert [path.name for path in (tmp_path / "results/tiny").iterdir()] == ["deep-mlp.jsonl"]


def test_again_it_trains_nothing(nero_paper):
    assert nero_paper("deep-mlp").exit_code == 0
    pool = FakePool()
    again = nero_paper("deep-mlp", pool=pool)
    assert again.exit_code == 0
    assert pool.trained == []
    assert f"all {RUNS} runs are recorded" in again.output


def test_after_an_interruption_it_goes_on_and_ends_with_the_same_table(nero_paper, tmp_path: Path):
    stopped = nero_paper("deep-mlp", pool=FakePool(interrupt_after=3))
    assert stopped.exit_code == 130, stopped.output
    assert len(Records(tmp_path / "results/tiny").of_task("deep-mlp")) == 3
    assert "(2 of 2 seeds)" not in stopped.output
    rest = FakePool()
    resumed = nero_paper("deep-mlp", pool=rest)
    assert (resumed.exit_code, len(rest.trained)) == (0, RUNS - 3)
    table = nero_paper("table", "deep-mlp").output
    whole = nero_paper("deep-mlp", "--results", "other")
    assert whole.exit_code == 0
    assert nero_paper("table", "deep-mlp", "--results", "other").output == table


def test_a_run_that_fails_is_reported_and_the_others_are_kept(nero_paper, tmp_path: Path):
    done = nero_paper("deep-mlp", pool=FakePool(broken=0.1))
    assert done.exit_code == 1
    assert "it broke" in done.output
    assert "grid not finished" in done.output
    assert len(Records(tmp_path / "results/tiny").of_task("deep-mlp")) == 8


def test_an_experiment_without_data_is_left_out_and_said_to_be(
    nero_paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("nero_lab.sweeps.jobs.load_task", _without_data)
    done = nero_paper("deep-mlp")
    assert done.exit_code == 1
    assert "left out: deep-mlp: get it there" in done.output
    assert not (tmp_path / "results").exists()


def _without_data(name: str):
    from nero_lab.data.parts import MissingData

    task = load_task(name)

    def find_data(*_, **__):
        raise MissingData("get it there")

    task.find_data = find_data  # pyright: ignore[reportAttributeAccessIssue]
    return task


def test_claims_and_docs_come_from_what_is_recorded(nero_paper, tmp_path: Path, monkeypatch):
    # Whether the module was imported before the fixture took this away depends on other tests.
    monkeypatch.setattr("nero_lab.analysis.document.save_figure", save_figure)
    task = load_task("deep-mlp")
    comparison = Comparison(task, task.presets["tiny"])
    run = comparison.run(comparison.variants[0], 0.01, 0)
    Records(tmp_path / "results/tiny").append(fake_record(run, task.metric, 0.5))
    claims = nero_paper("claims")
    assert claims.exit_code == 0
    assert "C4 Its memory is about the square root of Adam's or LAMB's. holds" in claims.output
    docs = nero_paper("docs", "--out", "pages")
    assert docs.exit_code == 0, docs.output
    text = (tmp_path / "pages/results.md").read_text()
    assert "Not run yet: 9 of 10 runs" in text
    assert (tmp_path / "pages/assets/results/fig3.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["fig99"], "fig99"), (["table", "nothing"], "nothing"), ([], "Missing argument")],
)
def test_bad_arguments_exit_2(nero_paper, arguments, message):
    done = nero_paper(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_an_unknown_preset_is_refused_with_the_names_of_the_others():
    done = CliRunner().invoke(app, ["paper", "all", "--preset", "huge"])
    assert done.exit_code == 2
    assert "cpu" in done.output
