"""`nero demo`: trains what is missing, and leaves tables, pictures and a page."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from nero_lab.cli.app import app
from nero_lab.records.store import Records

RUNS = 6 * 2 + 3
"""Six variants on two seeds; Adam, from any of three weights, has a second rate to try."""
LABELS = (
    "nero.for_model",
    "Adam, isometric weights",
    "Nero",
    "Adam, Kaiming weights",
    "Adam",
    "SGD",
)


def demo(out: Path, *arguments: str):
    command = ["demo", "--preset", "tiny", "--out", str(out), "--jobs", "2", *arguments]
    return CliRunner().invoke(app, command)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    result = demo(out)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_every_file_is_there_and_every_run_is_recorded(tiny):
    out, output = tiny
    names = {path.name for path in out.iterdir() if path.is_file()}
    expected = "digits-mlp.jsonl report.html curves.png curves.svg table.md"
    assert names == set(expected.split())
    assert str(out / "report.html") in output
    assert len(Records(out).of_task("digits-mlp")) >= RUNS


def test_the_table_shows_what_is_recorded(tiny):
    out, output = tiny
    rows = [line for line in (out / "table.md").read_text().splitlines() if "|" in line]
    for label in LABELS:
        assert label in output
        assert any(row.startswith(f"| {label} |") for row in rows)
    values = [
        record.result.metric("test", "accuracy")
        for record in Records(out).of_task("digits-mlp")
        if record.run.variant == "nero"
    ]
    assert f"{sum(filter(None, values)) / 2:.4f} [{min(values):.4f}, {max(values):.4f}]" in output


class _Resources(HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_fetches_nothing(tiny):
    page = (tiny[0] / "report.html").read_text()
    parser = _Resources()
    parser.feed(page)
    assert [address for address in parser.fetched if not address.startswith("#")] == []
    assert "link" not in parser.tags
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "@import" not in without_scripts
    assert "url(" not in without_scripts
    assert page.count("Plotly.newPlot(") == 3
    assert "plotly.js v" in page


def test_pictures_are_pictures(tiny):
    out, _ = tiny
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG\r\n")
    root = ElementTree.parse(out / "curves.svg").getroot()
    assert root.tag.endswith("svg")


def test_again_it_trains_nothing(tiny):
    out, _ = tiny
    records = (out / "digits-mlp.jsonl").read_bytes()
    again = demo(out)
    assert again.exit_code == 0
    assert "runs are recorded already" in again.output
    assert (out / "digits-mlp.jsonl").read_bytes() == records


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_resumes(tiny, tmp_path, monkeypatch):
    append = Records.append

    def append_two_then_interrupt(self: Records, record) -> None:
        append(self, record)
        if len(self.of_task("digits-mlp")) == 2:
            raise KeyboardInterrupt

    old = (tiny[0] / "digits-mlp.jsonl").read_bytes()
    (tmp_path / "digits-mlp.jsonl").write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(Records, "append", append_two_then_interrupt)
        interrupted = demo(tmp_path, "--fresh")
    assert interrupted.exit_code == 130
    assert "2 runs are recorded" in interrupted.output
    assert (tmp_path / "digits-mlp.jsonl.1").read_bytes() == old
    kept = [record.recorded_at for record in Records(tmp_path).of_task("digits-mlp")]
    assert "Not run yet" in (tmp_path / "report.html").read_text()

    assert demo(tmp_path).exit_code == 0
    resumed = Records(tmp_path).of_task("digits-mlp")
    assert len(resumed) == len(old.splitlines())
    assert [record.recorded_at for record in resumed][:2] == kept
    weights = [
        {record.run.run_id: record.result.weights for record in Records(out).of_task("digits-mlp")}
        for out in (tiny[0], tmp_path)
    ]
    assert weights[0] == weights[1]


def test_records_of_another_version_of_the_library_are_reported(tiny, tmp_path):
    lines = (tiny[0] / "digits-mlp.jsonl").read_text().splitlines()
    changed = json.loads(lines[0])
    changed["environment"]["nero"] = "0123"
    (tmp_path / "digits-mlp.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    done = demo(tmp_path)
    assert "1 recorded runs were made by another version of nero" in done.output


def test_help_is_quick_because_it_imports_no_torch():
    code = (
        "import sys; from nero_lab.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


@pytest.mark.parametrize("command", ["tasks", "optimizers"])
def test_lists(command):
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 0
    assert ("deep-mlp" if command == "tasks" else "lamb") in result.output


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--preset", "huge"]])
def test_bad_arguments_exit_2(arguments):
    assert CliRunner().invoke(app, ["demo", *arguments]).exit_code == 2
