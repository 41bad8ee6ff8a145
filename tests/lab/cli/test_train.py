"""`nero train` as a user gives it, in processes of their own."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from lab.fake_runs import give_command
from nero_lab.cli.app import app
from nero_lab.records.store import Record, Records

TASK = Path(__file__).parents[1] / "tiny_task.py"
SLOW_TASK = """
import os, signal, time
from dataclasses import replace
from pathlib import Path
from lab.tiny_task import Blobs, TINY


class Slow(Blobs):
    name = "slow"
    presets = {"tiny": replace(TINY, epochs=2)}
    step = 0

    def training_step(self, *args, **options):
        Slow.step += 1
        while Slow.step == 9 and Path(os.environ.get("HOLD", "")).is_file():
            time.sleep(0.01)
        mark = os.environ.get("DIE_ONCE")
        if mark and os.environ["RANK"] == "1" and Slow.step == 12 and not Path(mark).exists():
            Path(mark).write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(*args, **options)
"""


def nero(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def only_record(out: Path, task: str = "blobs") -> Record:
    (record,) = Records(out).of_task(task)
    return record


def test_a_run_is_trained_recorded_and_not_trained_again(tmp_path: Path):
    command = ("train", TASK, "--preset", "tiny", "--lr", 0.1, "--out", tmp_path, "--threads", 1)
    first = nero(*command)
    assert first.exit_code == 0, first.output
    assert "finished after 60 steps" in first.output
    record = only_record(tmp_path)
    assert f"test accuracy {record.result.metric('test', 'accuracy'):.4g}" in first.output
    assert (tmp_path / "weights" / f"{record.run.run_id}.pt").exists()
    assert not list((tmp_path / "checkpoints").iterdir())
    again = nero(*command)
    assert again.exit_code == 0
    assert "recorded already" in again.output
    fresh = nero(*command, "--fresh")
    assert "finished after 60 steps" in fresh.output
    assert only_record(tmp_path).result.weights == record.result.weights


def test_options_of_the_model(tmp_path: Path):
    for out, extra in (("a", ()), ("b", ("--model", "width=4"))):
        result = nero("train", TASK, "--preset", "tiny", "--out", tmp_path / out, *extra)
        assert result.exit_code == 0, result.output
    assert only_record(tmp_path / "a").run.model == {}
    assert only_record(tmp_path / "b").run.model == {"width": 4}


def test_precision_is_the_presets_unless_it_is_given(tmp_path: Path):
    task = tmp_path / "half_task.py"
    task.write_text(
        "from dataclasses import replace\nfrom lab.tiny_task import Blobs, TINY\n\n"
        "class Half(Blobs):\n    name = 'half'\n"
        "    presets = {'tiny': replace(TINY, epochs=1, precision='bf16-mixed')}\n"
    )
    for given, wanted in (((), "bf16-mixed"), (("--precision", "32-true"), "32-true")):
        out = tmp_path / wanted
        found = nero("train", task, "--preset", "tiny", "--out", out, "--threads", 1, *given)
        assert found.exit_code == 0, found.output
        assert only_record(out, "half").run.precision == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-task",), r"unknown task 'no-such-task'; the tasks are: "),
        ((TASK, "--preset", "cpu"), "no preset 'cpu'; it has: tiny"),
        ((TASK, "--preset", "tiny", "--optimizer", "amda"), "mean 'adam'.* variant of preset tiny"),
        (("no_such_file.py",), "no file 'no_such_file.py'"),
        ((TASK, "--preset", "tiny", "--model", "width"), "'width' is not NAME=VALUE"),
        (("deep-mlp", "--preset", "tiny", "--data", "/nowhere"), "no MNIST in /nowhere"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, monkeypatch, arguments: Sequence, message: str):
    monkeypatch.chdir(tmp_path)
    result = nero("train", *arguments)
    assert result.exit_code != 0
    assert re.search(message, " ".join(result.output.split()))
    assert "Traceback" not in result.output


def test_a_directory_that_cannot_be_written_is_an_error_before_training(tmp_path: Path):
    (tmp_path / "file").write_text("")
    result = nero("train", TASK, "--preset", "tiny", "--out", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "cannot keep checkpoints in" in result.output
    assert "--out" in result.output


# ---------------------------------------------------------------- in processes of their own


@pytest.fixture
def slow_task(tmp_path: Path) -> Path:
    path = tmp_path / "slow_task.py"
    path.write_text(SLOW_TASK)
    return path


def start(command: Sequence[str | Path], **environment: str) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parents[2])
    paths = [tests, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def train_command(task: Path, out: Path) -> list[str | Path]:
    arguments = ["--preset", "tiny", "--threads", "1", "--accelerator", "cpu", "--save-every", "0"]
    return ["nero_lab", "train", task, *arguments, "--out", out]


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    """Wait until a checkpoint of that step or a later one is there."""
    while process.poll() is None:
        names = [path.stem for path in out.glob("checkpoints/*/step-*.pt")]
        if any(int(name.removeprefix("step-")) >= step for name in names):
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow  # two processes that each import torch
def test_the_command_survives_sigkill_and_sigterm(tmp_path: Path, slow_task: Path):
    out = tmp_path / "out"
    command = train_command(slow_task, out)
    hold = tmp_path / "hold"
    hold.touch()
    killed = start(command, HOLD=str(hold))
    wait_for_step(killed, out, 8)
    killed.kill()
    killed.communicate()

    stopped = start(command, HOLD=str(hold))
    wait_for_step(stopped, out, 16)
    stopped.send_signal(signal.SIGTERM)
    hold.unlink()
    output = stopped.communicate()[0]
    assert stopped.returncode == 0, output
    assert "The same command again goes on" in output
    assert not Records(out).of_task("slow")

    finished = nero(*command[1:])
    assert finished.exit_code == 0, finished.output
    whole = nero(*train_command(slow_task, tmp_path / "whole")[1:])
    assert whole.exit_code == 0, whole.output
    results = [only_record(each, "slow").result for each in (out, tmp_path / "whole")]
    assert results[0].weights == results[1].weights
    assert results[0].curves == results[1].curves


def two_ranks(command: Sequence[str | Path]) -> None:
    """Give a command in two processes, as torchrun would start them but at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nero_lab.training.loop"])
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    processes = [
        context.Process(
            target=give_command,
            args=([str(each) for each in command], {**shared, "RANK": rank, "LOCAL_RANK": rank}),
        )
        for rank in ("0", "1")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


@pytest.mark.slow  # torchrun and four processes that each import torch
def test_a_rank_killed_under_torchrun_resumes(tmp_path: Path, slow_task: Path):
    mark, out = tmp_path / "died", tmp_path / "killed"
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = ["torch.distributed.run", *options, "-m", *train_command(slow_task, out)]
    process = start(command, DIE_ONCE=str(mark))
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert mark.exists()
    resumed = only_record(out, "slow")

    two_ranks(train_command(slow_task, tmp_path / "whole")[1:])
    whole = only_record(tmp_path / "whole", "slow")
    assert resumed.result.weights == whole.result.weights
    assert resumed.result.curves == whole.result.curves
    assert resumed.result.steps == 30
