"""The pages on tasks and optimisers of one's own, as a user follows them: in a folder of theirs."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nero_lab.cli.app import app
from nero_lab.records.store import Records

PAGES = Path(__file__).parents[3] / "docs" / "how-to"


def first_example(page: str) -> str:
    found = re.search(r"```python\n(.*?)```", (PAGES / page).read_text("utf-8"), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "my_task.py").write_text(first_example("own-task.md"))
    (tmp_path / "my_optimizers.py").write_text(first_example("own-optimizer.md"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nero(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_own_task_trains(folder: Path):
    nero("train", "my_task.py")
    (record,) = Records(folder / "runs" / "train").of_task("wine")
    assert record.run.data_name == "scikit-learn's wine"
    accuracy = record.result.metric("test", "accuracy")
    assert accuracy is not None
    assert accuracy > 0.8


@pytest.mark.parametrize("name", ["SignDescent", "SLOW_START"])
def test_own_optimizer_trains_on_own_task(folder: Path, name: str):
    nero("train", "my_task.py", "--optimizer", f"my_optimizers.py:{name}", "--lr", "0.01")
    (record,) = Records(folder / "runs" / "train").of_task("wine")
    assert record.run.optimizer == f"my_optimizers.py:{name}"
    assert record.run.warmup_epochs == (1.5 if name == "SLOW_START" else 0)
    accuracy = record.result.metric("test", "accuracy")
    assert accuracy is not None
    assert accuracy > 0.9


def test_own_optimizer_from_a_module(folder: Path):
    shutil.move("my_optimizers.py", "another_module_of_mine.py")
    where = "another_module_of_mine:SignDescent"
    nero("train", "my_task.py", "--preset", "tiny", "--optimizer", where)
    (record,) = Records(folder / "runs" / "train").of_task("wine")
    assert record.run.optimizer == where


def test_own_task_and_optimizer_in_the_workers_of_a_sweep(folder: Path):
    optimizers = "nero,my_optimizers.py:SignDescent"
    options = ("--preset", "tiny", "--lrs", "default", "--seeds", "2", "--jobs", "2")
    command = ("sweep", "my_task.py", "--optimizers", optimizers, *options)
    output = nero(*command)
    assert "my_optimizers.py:SignDescent" in output
    assert len(Records(folder / "runs" / "sweep").of_task("wine")) == 4
    assert "All 4 runs are recorded already" in nero(*command)


def test_a_sweep_without_a_name_of_its_own_trains_the_variants_of_the_preset(folder: Path):
    nero("sweep", "my_task.py", "--preset", "tiny", "--lrs", "0.01", "--seeds", "1", "--jobs", "1")
    found = Records(folder / "runs" / "sweep").of_task("wine")
    assert {record.run.variant for record in found} == {"nero", "adam", "adam-wide"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--optimizers", "amda"), "mean 'adam'"),
        (("--preset", "paper"), "no preset 'paper'; it has: cpu, tiny"),
        (("--lrs", "fast"), "neither grid nor default nor learning rates"),
        (("--executor", "cloud"), "choose local or ray"),
    ],
)
def test_errors_of_a_sweep_say_what_to_do(folder: Path, arguments: tuple[str, str], message: str):
    result = CliRunner().invoke(app, ["sweep", "my_task.py", *arguments])
    assert result.exit_code != 0
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())
