"""`nero report`: the page of results, and what a browser makes of it."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab.browser import CHROMIUM, visit
from lab.fake_records import by_distance, fake_record, fake_records
from nero_lab.cli.app import app
from nero_lab.records.store import Record, Records
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.table import load_task

OPTIMA = {"nero": 1e-3, "lamb": 1e-2, "adam-kaiming": 1e-4, "sgd-kaiming": 1e-2}


def _records() -> list[Record]:
    task = load_task("deep-mlp")
    return fake_records(Comparison(task, task.presets["cpu"]), by_distance(0.8, 0.1, OPTIMA))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    store = Records(folder)
    for record in _records():
        store.append(record)
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert str(folder / "report.html") in done.output
    return folder


def test_the_page_has_tables_claims_and_every_record(folder: Path):
    page = (folder / "report.html").read_text()
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    records = Records(folder).of_task("deep-mlp")
    for record in records:
        assert text.count(f'id="run-{record.run.run_id}"') == 1
    assert f"{len(records)} runs of 1 experiments" in text
    assert "Made-up digits, in the place of MNIST" in text
    assert "C7. Projection beats reparameterisation" in text
    assert "0.893, 0.91, 0.837 (lr 0.001, test accuracy)" in text
    size = records[0].run.data["train_size"]
    assert text.count(f"&#34;train_size&#34;: {size}") == len(records)
    assert "cores 2" in text


def test_an_empty_folder_makes_a_page_that_says_so(tmp_path: Path):
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "x/p.html")])
    assert done.exit_code == 0, done.output
    assert "Nothing is recorded" in (tmp_path / "x/p.html").read_text()


def test_a_folder_that_is_not_there_is_a_usage_error():
    done = CliRunner().invoke(app, ["report", "nowhere"])
    assert done.exit_code == 2
    assert "nowhere is no folder" in done.output


OWN_TASK = """
from nero_lab.experiments.task import ACCURACY, Variant, Preset, Task
from nero_lab.experiments.schedule import Schedule

class Mine(Task):
    name, title, metric = "mine", "my own", ACCURACY
    presets = {"small": Preset("small", 2, 10, Schedule(), (Variant("nero", "Nero", "nero"),))}
"""


def test_a_users_own_task_is_shown_once_its_file_is_named(tmp_path: Path):
    file = tmp_path / "my_task.py"
    file.write_text(OWN_TASK)
    task = load_task(str(file))
    comparison = Comparison(task, task.presets["small"])
    run = comparison.run(comparison.variants[0], 0.01, 0)
    Records(tmp_path).append(fake_record(run, task.metric, 0.5))
    without = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "Not shown: mine.jsonl" in without.output
    assert "mine on" not in (tmp_path / "report.html").read_text()
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--task", str(file)])
    assert "1 runs of 1 tasks" in done.output, done.output
    assert "mine on Made-up digits" in (tmp_path / "report.html").read_text()


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():  # pytest's own limit ends it
        time.sleep(0.02)


def test_runs_of_a_preset_that_the_task_has_not_are_named(tmp_path: Path):
    task = load_task("deep-mlp")
    comparison = Comparison(task, replace(task.presets["tiny"], name="mine"))
    run = comparison.run(comparison.variants[0], 0.01, 0)
    Records(tmp_path).append(fake_record(run, task.metric, 0.5))
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "deep-mlp.jsonl: 1 runs of preset 'mine', which it has not." in done.output


def _click_a_point(page: Any) -> str:
    """Click on a point of the panel by learning rate, and return the id that it leads to."""
    page.evaluate("document.querySelectorAll('.js-plotly-plot')[2].scrollIntoView()")
    point = page.locator(".js-plotly-plot").nth(2).locator(".scatterlayer .points path").first
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    # Plotly takes a while to notice what the mouse is over, and a click is lost before that.
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[2]._hoverdata")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("location.hash.startsWith('#run-')")
    return page.evaluate("location.hash.slice(1)")


def _drawn(page: Any, variant: str) -> int:
    """Count the lines of a variant that are drawn in the second panel, at the best rate."""
    return page.evaluate(
        """variant => {
            const plot = document.querySelectorAll(".js-plotly-plot")[1];
            return plot.data.filter(t => t.meta === variant && t.visible !== false).length;
        }""",
        variant,
    )


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_in_a_browser_it_renders_hides_a_curve_and_leads_to_records(folder: Path):
    with visit(folder / "report.html") as seen:
        page = seen.page
        plots = page.locator(".js-plotly-plot")
        assert plots.count() == 3
        lines = page.locator(".js-plotly-plot .scatterlayer path.js-line")
        assert lines.count() > 20
        assert page.locator(".js-plotly-plot svg.main-svg").count() >= 3

        before, paths = _drawn(page, "nero"), lines.count()
        button = page.get_by_role("button", name="Nero", exact=True)
        assert before > 0
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        _wait(lambda: _drawn(page, "nero") == 0 and lines.count() < paths)
        button.click()
        _wait(lambda: (_drawn(page, "nero"), lines.count()) == (before, paths))

        target = _click_a_point(page)
        record = page.locator(f"[id='{target}']")
        # The page hears of a new address after it has one.
        page.wait_for_function("id => document.getElementById(id).open", arg=target)
        assert record.locator("pre").is_visible()
        assert '"task": "deep-mlp"' in record.locator("pre").inner_text()

        for width in (1280, 380):
            page.set_viewport_size({"width": width, "height": 800})
            # The pictures are drawn again for the new width.
            page.wait_for_function(
                "width => document.documentElement.scrollWidth <= width", arg=width
            )
        assert all(address.startswith("file:") for address in seen.requests)
        assert len(seen.requests) == 1
        assert seen.complaints == []
