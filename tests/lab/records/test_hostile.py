"""Records from elsewhere: broken lines are passed over, and nothing that they name is run."""

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lab.fake_records import by_distance, fake_records
from nero_lab.cli.app import app
from nero_lab.experiments.run import Run
from nero_lab.records.store import Record, Records
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.table import load_task

TASK = load_task("deep-mlp")
COMPARISON = Comparison(TASK, TASK.presets["tiny"])
SHOWING = (
    ("report", "."),
    ("paper", "table", "deep-mlp", "--preset", "tiny", "--results", "."),
    ("paper", "claims", "deep-mlp", "--preset", "tiny", "--results", "."),
    ("paper", "docs", "deep-mlp", "--preset", "tiny", "--results", ".", "--out", "pages"),
)


def show(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def good_records() -> list[Record]:
    return fake_records(COMPARISON, by_distance(0.8, 0.1, {"nero": 1e-2}))


def changed(path: str, value: Any, **more: Any) -> bytes:
    """Return the line of a record with another value at "run.lr" or the like, and a fitting id."""
    fields = json.loads(good_records()[0].to_json())
    for where, new in {path: value, **more}.items():
        *outer, last = where.split(".")
        inner = fields
        for name in outer:
            inner = inner[name]
        inner[last] = new
    with contextlib.suppress(TypeError):  # a line without a run has no id to fit
        fields["id"] = Run(**fields["run"]).run_id
    return json.dumps(fields).encode()


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ILL_TYPED = (
    ("run", None),
    ("run", []),
    ("run.task", 3),
    ("run.optimizer", ["nero"]),
    ("run.optimizer", "nero\n| a |"),
    ("run.optimizer_options", "none"),
    ("run.optimizer_options", {"a": "\ud800"}),
    ("run.lr", "fast"),
    ("run.lr", None),
    ("run.lr", True),
    ("run.lr", float("nan")),
    ("run.lr", 10**400),
    ("run.seed", 0.5),
    ("run.seed", {}),
    ("run.epochs", "6"),
    ("run.schedule", [1]),
    ("run.model", None),
    ("run.model", {"a": nested(200)}),
    ("run.data_name", 7),
    ("run.variant", {"name": "nero"}),
    ("run.variant", "\ud800"),
    ("run.preset", None),
    ("run.groups", "all"),
    ("run.clip_norm", "1"),
    ("result", 5),
    ("result.status", "perhaps"),
    ("result.steps", None),
    ("result.seconds", "long"),
    ("result.metrics", []),
    ("result.metrics", {"test": 0.5}),
    ("result.metrics", {"test": {"accuracy": "high"}}),
    ("result.curves", [[1, 2]]),
    ("result.curves", {"epoch": 3}),
    ("result.curves", {"epoch": [1, 2], "val_accuracy": [0.5]}),
    ("result.curves", {"epoch": [1], "val_accuracy": ["x"]}),
    ("result.weights", 1),
    ("environment", "here"),
    ("commit", 12),
    ("recorded_at", None),
    ("more", 1),
)
BROKEN = (
    b"\xff",
    b'{"id": "\xff"}',
    b"\0" * 50,
    b"[" * 200_000,
    b'{"a": ' * 200_000,
    b"[]",
    b"7",
    b"{}",
    b"null",
    b'"',
    good_records()[0].to_json().encode()[:-30],
)


@pytest.mark.parametrize(("path", "value"), ILL_TYPED, ids=lambda value: str(value)[:30])
def test_a_record_of_other_types_is_refused(path: str, value: Any):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what JsonLines passes over
        Record.from_json(changed(path, value).decode())
    assert "of another run" not in str(caught.value)


def test_a_good_record_is_read_as_it_was_written():
    for record in good_records():
        assert Record.from_json(record.to_json()).to_json() == record.to_json()


@pytest.mark.parametrize("command", SHOWING, ids=lambda command: " ".join(command[:2]))
def test_lines_that_hold_no_record_are_passed_over(tmp_path: Path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    good = [record.to_json().encode() for record in good_records()]
    bad = [*BROKEN, *(changed(path, value) for path, value in ILL_TYPED)]
    Path("deep-mlp.jsonl").write_bytes(b"\n".join([*bad, *good, b"", b""]))
    done = show(*command)
    assert done.exit_code == 0
    assert f"{len(bad)} unreadable lines in deep-mlp.jsonl are passed over" in done.output
    assert len(Records(Path()).of_task("deep-mlp")) == len(good)


ODD = (
    ("run.lr", 0),
    ("run.lr", -1.5),
    ("run.lr", 1e300),
    ("run.seed", -4),
    ("run.seed", 10**30),
    ("run.epochs", 0),
    ("run.recipe", -1),
    ("run.optimizer", ""),
    ("run.optimizer", "no such:optimiser"),
    ("run.schedule", {}),
    ("run.model", {"depth": nested(10)}),
    ("run.data_name", None),
    ("run.data_name", ""),
    ("run.variant", ""),
    ("result.metrics", {}),
    ("result.metrics", {"test": {}}),
    ("result.metrics", {"other": {"accuracy": None}}),
    ("result.curves", {}),
    ("result.curves", {"epoch": []}),
    ("result.curves", {"other": [1, None]}),
    ("result.curves", {"epoch": [None, -3], "val_accuracy": [1e300, None]}),
    ("result.steps", -9),
    ("result.seconds", -1e308),
    ("environment", {}),
    ("recorded_at", "never"),
)


@pytest.mark.parametrize("command", SHOWING, ids=lambda command: " ".join(command[:2]))
def test_odd_values_of_the_right_type_are_shown(tmp_path: Path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    odd = [changed(path, value, **{"run.clip_norm": 9.0}) for path, value in ODD]
    odd += [changed(path, value) for path, value in ODD]
    Path("deep-mlp.jsonl").write_bytes(b"\n".join(odd) + b"\n")
    done = show(*command)
    assert done.exit_code == 0
    assert "unreadable" not in done.output


@pytest.mark.parametrize("optimizer", ["evil.py:X", "evil:X", "evil.py", "os:getpid"])
@pytest.mark.parametrize("command", SHOWING, ids=lambda command: " ".join(command[:2]))
def test_showing_a_record_runs_nothing_that_it_names(
    tmp_path: Path, monkeypatch, command: tuple[str, ...], optimizer: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil.py").write_text(
        "open('ran', 'w')\ndef X(params, lr=0.5): ...\n__getattr__ = lambda name: X\n"
    )
    lines = [changed("run.optimizer", optimizer), changed("run.variant", optimizer)]
    Path("deep-mlp.jsonl").write_bytes(b"\n".join(lines))
    done = show(*command)
    assert done.exit_code == 0
    assert not Path("ran").exists()
    assert Records(Path()).of_task("deep-mlp")[0].run.optimizer == optimizer


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_an_error_that_names_it(tmp_path: Path, make):
    make(tmp_path / "deep-mlp.jsonl")
    with pytest.raises(OSError, match=r"not a regular file: .*deep-mlp\.jsonl"):
        Records(tmp_path).of_task("deep-mlp")


def test_the_fields_of_every_committed_record_fit():
    results = Path(__file__).parents[3] / "results" / "cpu"
    records = Records(results)
    for file in results.glob("*.jsonl"):
        found = records.of_task(file.stem)
        assert found
        assert asdict(found[0])["run"]["task"] == file.stem
    assert not list(records.unreadable())
