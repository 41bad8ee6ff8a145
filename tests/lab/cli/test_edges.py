"""Odd names, odd arguments and odd places: one line each, and nothing of others is run."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.fake_records import by_distance, fake_records
from nero_lab.cli.app import main
from nero_lab.records.store import Records
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.table import load_task

TRAIN = ("train", "digits-mlp", "--preset", "tiny")
SWEEP = ("sweep", "digits-mlp", "--preset", "tiny", "--jobs", "1")
BRACKETS = "a [/b] [red]c[0]"

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def nero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Command:
    """Return what gives a command in this process and returns status and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")

    def give(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["nero", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        printed = "".join(capfd.readouterr())
        code = end.value.code
        # Python prints a text on its way out.
        return (1, f"{printed}{code}\n") if isinstance(code, str) else (int(code or 0), printed)

    return give


def test_square_brackets_are_printed_as_they_are(nero: Command):
    code, printed = nero(*TRAIN, "--out", BRACKETS)
    assert code == 0, printed
    assert f"Record: {BRACKETS}/digits-mlp.jsonl" in printed
    assert f"weights: {BRACKETS}/weights/" in printed
    code, printed = nero("report", BRACKETS)
    assert code == 0, printed
    assert f"Open {BRACKETS}/report.html" in printed
    code, printed = nero("train", "cifar", "--preset", "tiny", "--data", BRACKETS)
    assert code == 1
    assert f"in {BRACKETS} (" in printed
    code, printed = nero("train", f"{BRACKETS}.py")
    assert (code, printed) == (1, f"error: no file '{BRACKETS}.py'\n")
    code, printed = nero("data", "--data", BRACKETS)
    assert code == 0, printed


OWN_TASK = """
from dataclasses import replace
from nero_lab.experiments.task import Metric, Variant
from nero_lab.tasks.digits_mlp import DigitsMLP


class Mine(DigitsMLP):
    name = "mine[0]"
    presets = {
        "tiny [/x]": replace(
            DigitsMLP.presets["tiny"],
            name="tiny [/x]",
            variants=(Variant("[/nero]", "[red]Nero[/]", "nero", lr_grid=(0.01,)),),
        )
    }
"""


@pytest.mark.slow  # a worker imports torch
def test_square_brackets_in_names_of_ones_own_are_printed_as_they_are(nero: Command):
    Path("my.py").write_text(OWN_TASK)
    command = ("sweep", "my.py", "--preset", "tiny [/x]", "--seeds", "1", "--jobs", "1")
    code, printed = nero(*command, "--out", "out")
    assert code == 0, printed
    assert "mine[0] tiny [/x], [/nero] lr 0.01 seed 0: finished" in printed
    assert "│ [red]Nero[/]" in printed
    code, printed = nero("report", "out", "--task", "my.py")
    assert code == 0, printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*TRAIN, "--model", "nonsense=3"), "nonsense"),
        ((*TRAIN, "--model", "depth=abc"), "depth"),
        ((*TRAIN, "--accelerator", "bogus"), "bogus"),
        ((*TRAIN, "--precision", "bogus"), "bogus"),
        ((*TRAIN, "--out", "file/in/it"), "cannot keep checkpoints in file/in/it"),
        ((*SWEEP, "--out", "file/in/it"), "cannot keep records in file/in/it"),
        (("demo", "--quick", "--out", "file/in/it"), "cannot keep records in file/in/it"),
        (("bench", "--quick", "--out", "file/in/it"), "file/in/it"),
        (("report", ".", "--out", "file/page.html"), "file"),
        (("paper", "docs", "--results", "nowhere", "--out", "file/in/it"), "file/in/it"),
        (("report", "pipes"), "not a regular file"),
        (("describe", ""), "neither a model"),
        (("data", "get", "nothing"), "cannot be fetched"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_line(nero: Command, arguments: tuple[str, ...], expected: str):
    Path("file").write_text("")
    Path("pipes").mkdir()
    os.mkfifo("pipes/deep-mlp.jsonl")
    code, printed = nero(*arguments)
    assert code == 1, printed
    *before, last = printed.strip().splitlines()
    assert last.startswith("error: ")
    assert expected in last
    # `nero train` says what it trains before it starts.
    assert len([line for line in before if line]) <= (arguments[0] == "train"), printed


@pytest.mark.skipif(os.environ.get("CUDA_VISIBLE_DEVICES") not in (None, ""), reason="has a GPU")
def test_an_accelerator_that_is_not_there_is_one_line(nero: Command):
    import torch

    if torch.cuda.is_available():
        pytest.skip("it is there")
    code, printed = nero(*TRAIN, "--accelerator", "cuda")
    assert code == 1
    assert printed.strip().splitlines()[-1].startswith("error: `CUDAAccelerator` can not run")


@pytest.mark.parametrize("lrs", ["nan", "0.1,inf", "-1", ""])
def test_a_learning_rate_that_is_none_is_refused(nero: Command, lrs: str):
    assert nero(*SWEEP, "--lrs", lrs)[0] == 2


def start(tmp_path: Path, *arguments: str, **options) -> subprocess.Popen:
    """Start the command as its script in an environment does, from a folder of its own."""
    script = tmp_path / "bin" / "nero"
    script.parent.mkdir()
    script.write_text(
        "from nero_lab.cli.app import main\n\nif __name__ == '__main__':\n    main()\n"
    )
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("command", ["tasks", "optimizers"])
def test_a_reader_that_has_enough_ends_it_without_a_word(tmp_path: Path, command: str):
    process = start(tmp_path, command)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + 13


SHADOWS = ("random", "tempfile", "socket", "selectors", "pickle", "threading", "logging", "json")


@pytest.mark.slow  # processes that import torch
def test_modules_of_the_folder_are_nobodys_standard_library(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'ran')!r}, 'w')\nraise SystemExit\n"
        )
    arguments = ("--optimizers", "nero", "--lrs", "0.01", "--seeds", "1")
    process = start(tmp_path, *SWEEP, *arguments, cwd=folder)
    printed = "".join(process.communicate())
    assert process.returncode == 0, printed
    assert not (folder / "ran").exists()


NAMES = (
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "a | b",
    "$\\frac{$",
    "`code`",
    "[/b]",
)


def test_names_of_records_make_no_tag_link_or_formula(nero: Command, tmp_path: Path):
    task = load_task("deep-mlp")
    comparison = Comparison(task, task.presets["tiny"])
    store = Records(tmp_path / "odd")
    (first, *_) = fake_records(comparison, by_distance(0.8, 0.1, {"nero": 1e-2}))
    for name in NAMES:
        run = replace(first.run, variant=name, optimizer=name, clip_norm=3.0, data_name=name)
        store.append(replace(first, run=run, data_stands_in_for=name, environment={name: name}))
    for command in (("report", "odd"), ("paper", "table", "deep-mlp"), ("paper", "docs")):
        paper = () if command[0] == "report" else ("--preset", "tiny", "--results", "odd")
        out = ("--out", "pages") if command[1:] == ("docs",) else ()
        code, printed = nero(*command, *paper, *out)
        assert code == 0, printed
    page = Path("odd/report.html").read_text("utf-8")
    document = Path("pages/results.md").read_text("utf-8")
    assert "<script>alert" not in page
    assert "<script" not in document
    assert "](javascript" not in document
    assert "a \\| b" in document
