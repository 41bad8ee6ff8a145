"""`nero train --watch` and what `nero report` draws of it, in a browser."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab.browser import CHROMIUM, visit
from lab.dying_task import DEATH
from nero_lab.analysis.layers import QUANTITIES, by_quantity, layer_panels
from nero_lab.cli.app import app
from nero_lab.records.store import Record, Records

TASK = str(Path(__file__).parents[1] / "dying_task.py")
LAYERS = ["live.weight", "dying.weight", "head.weight"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run in which a layer dies, watched, another one that is not, and the page of both."""
    folder = tmp_path_factory.mktemp("watched")
    train = ("train", TASK, "--preset", "tiny", "--lr", "0.02", "--out", str(folder))
    for more in (("--watch", "3"), ("--seed", "1")):
        done = CliRunner().invoke(app, [*train, "--threads", "1", *more])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["report", str(folder), "--task", TASK])
    assert done.exit_code == 0, done.output
    return folder


def records(folder: Path) -> dict[int, Record]:
    return {record.run.seed: record for record in Records(folder).of_task("dying")}


def test_only_the_watched_run_has_panels(folder: Path):
    found = records(folder)
    assert len(layer_panels(found[0])) == 2
    assert layer_panels(found[1]) == []
    page = re.sub(r"<script.*?</script>", "", (folder / "report.html").read_text(), flags=re.DOTALL)
    assert page.count('<h3 class="layers">') == 1
    assert f'<a href="#run-{found[0].run.run_id}">Nero, lr 0.02, seed 0: finished' in page
    assert "angle/mean" not in page  # of a record, its columns are drawn and not printed


def test_layers_are_in_the_networks_order_and_every_quantity_has_a_name(folder: Path):
    columns = records(folder)[0].result.layers
    found = by_quantity(columns)
    assert {tuple(layers) for layers in found.values()} == {tuple(LAYERS)}
    assert sum(map(len, found.values())) == len(columns) - 1  # all but the steps are drawn
    assert set(QUANTITIES) - set(found) == {"capped"}  # the run has no cap


def heat_map(page: Any) -> Any:
    """What the first panel of layers draws."""
    return page.evaluate(
        """() => {
            const trace = document.querySelector(".layers .js-plotly-plot").data[0];
            return { type: trace.type, x: trace.x, y: trace.y, z: trace.z };
        }"""
    )


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_in_a_browser_the_row_of_the_layer_that_dies_is_zero_from_then_on(folder: Path):
    columns = records(folder)[0].result.layers
    with visit(folder / "report.html") as seen:
        page = seen.page
        assert page.locator(".layers .js-plotly-plot").count() == 2
        drawn = heat_map(page)
        assert (drawn["type"], drawn["y"]) == ("heatmap", LAYERS)
        assert drawn["x"] == columns["step"]
        dead = [step >= DEATH for step in drawn["x"]]
        assert sum(dead) == 10
        live, dying, head = drawn["z"]
        assert [angle == 0 for angle in dying] == dead
        assert 0 not in live + head

        # The menu of the panel draws another quantity.
        panel = page.locator(".layers .js-plotly-plot").first
        panel.locator(".updatemenu-header").click()
        name = QUANTITIES["effective_rank"]
        panel.locator(".updatemenu-dropdown-button", has_text=name).click()
        page.wait_for_function(
            "before => document.querySelector('.layers .js-plotly-plot').data[0].z[0][0] != before",
            arg=live[0],
        )
        assert heat_map(page)["z"] == [columns[f"effective_rank/{layer}"] for layer in LAYERS]

        curves = page.locator(".layers .js-plotly-plot").nth(1)
        assert curves.locator(".scatterlayer path.js-line").count() == len(LAYERS)
        for width in (1280, 380):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_function(
                "width => document.documentElement.scrollWidth <= width", arg=width
            )
        assert seen.complaints == []
        assert len(seen.requests) == 1


def test_a_run_that_cannot_be_watched_is_an_error(tmp_path: Path):
    arguments = ("--preset", "tiny", "--optimizer", "adam", "--watch", "5", "--out", str(tmp_path))
    done = CliRunner().invoke(app, ["train", TASK, *arguments])
    assert done.exit_code == 1
    assert "only Nero's layers can be watched, and this run has Adam" in " ".join(
        done.output.split()
    )
