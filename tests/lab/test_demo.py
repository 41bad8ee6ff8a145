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
from nero_lab.records.old import RecordStore


def _demo(out: Path, *arguments: str):
    command = ["demo", "--preset", "tiny", "--out", str(out), "--jobs", "2", *arguments]
    return CliRunner().invoke(app, command)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    result = _demo(out)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_every_file_is_there(tiny):
    out, output = tiny
    names = {path.name for path in out.iterdir()}
    expected = "records.jsonl report.html curves.png curves.svg table.md summary.json"
    assert names == set(expected.split())
    assert str(out / "report.html") in output


def test_table_has_every_row(tiny):
    out, output = tiny
    table = (out / "table.md").read_text().splitlines()
    assert len(table) == 2 + 6
    assert len({line.count("|") for line in table}) == 1
    for label in ("Nero", "SGD", "Adam", "LAMB", "kaiming"):
        assert label in output


def test_records_and_summary_are_json_and_agree(tiny):
    out, _ = tiny
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished"] is True
    nero = next(row for row in summary["rows"] if row["optimizer"] == "nero")
    recorded = [
        line["result"]["test_metric"] for line in lines if line["config"]["optimizer"] == "nero"
    ]
    assert sorted(nero["out_of_the_box"]["accuracies"]) == sorted(recorded)
    assert nero["out_of_the_box"]["mean"] == pytest.approx(sum(recorded) / len(recorded))


class _Resources(HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value]


def test_page_fetches_nothing_and_shows_the_results(tiny):
    out, _ = tiny
    page = (out / "report.html").read_text()
    parser = _Resources()
    parser.feed(page)
    assert parser.fetched == []
    assert "link" not in parser.tags
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "@import" not in without_scripts
    assert "url(" not in without_scripts
    summary = json.loads((out / "summary.json").read_text())
    assert f"{summary['rows'][0]['best']['mean']:.3f}" in without_scripts
    assert page.count("Plotly.newPlot(") >= 2
    assert "plotly.js v" in page
    assert "This comparison was interrupted" not in without_scripts
    assert "far too small to compare anything" in without_scripts


def test_pictures_are_pictures(tiny):
    out, _ = tiny
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG\r\n")
    root = ElementTree.parse(out / "curves.svg").getroot()
    assert root.tag.endswith("svg")


def test_running_again_trains_nothing(tiny):
    out, _ = tiny
    records = (out / "records.jsonl").read_bytes()
    again = _demo(out)
    assert again.exit_code == 0
    assert "recorded already" in again.output
    assert (out / "records.jsonl").read_bytes() == records


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_resumes(tiny, tmp_path, monkeypatch):
    append = RecordStore.append

    def append_two_then_interrupt(self: RecordStore, record) -> None:
        append(self, record)
        if len(self.records) == 2:
            raise KeyboardInterrupt

    old = (tiny[0] / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "append", append_two_then_interrupt)
        interrupted = _demo(tmp_path, "--fresh")
    assert interrupted.exit_code == 130
    kept = RecordStore(tmp_path / "records.jsonl").records
    assert 2 <= len(kept) < len(old.splitlines())
    assert f"records.jsonl: {len(kept)}." in interrupted.output
    assert "This comparison was interrupted" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "records.jsonl.old").read_bytes() == old

    assert _demo(tmp_path).exit_code == 0
    resumed = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(resumed) == len(old.splitlines())
    assert {json.loads(line)["recorded_at"] for line in resumed} >= {
        record.recorded_at for record in kept.values()
    }
    without_times = re.compile(r"[\d.]+ s \|$", re.MULTILINE)
    tables = [(out / "table.md").read_text() for out in (tiny[0], tmp_path)]
    assert without_times.sub("", tables[0]) == without_times.sub("", tables[1])


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
