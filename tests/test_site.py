"""The documentation's site, as a browser shows it: nothing fetched, nothing off the screen."""

import subprocess
import sys
from pathlib import Path

import pytest

from lab.browser import CHROMIUM, visit

ROOT = Path(__file__).parents[1]
PAGES = (
    "",
    "tutorial/first-network",
    "explanation/theory",
    "evidence/results",
    "evidence/log",
    "reference/api",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True)
    return target


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_the_screen_and_fetches_nothing(site: Path, page: str) -> None:
    path = site / page / "index.html"
    with visit(path) as seen:
        equations = seen.page.locator(".arithmatex")
        assert (equations.count() > 0) == (page in ("explanation/theory", "reference/api"))
        seen.page.wait_for_function(
            "document.querySelectorAll('.arithmatex').length"
            " === document.querySelectorAll('.arithmatex mjx-container').length"
        )
        assert seen.page.locator("[data-mjx-error]").count() == 0
        for width in (1280, 400):
            seen.page.set_viewport_size({"width": width, "height": 900})
            seen.page.wait_for_function(
                "width => document.documentElement.scrollWidth <= width", arg=width
            )
        assert all(address.startswith("file:") for address in seen.requests)
        # Searching takes a worker, which a browser refuses to files.
        assert [each for each in seen.complaints if "Worker" not in each] == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_page_turns_dark(site: Path) -> None:
    with visit(site / "index.html") as seen:

        def background() -> str:
            return seen.page.evaluate("getComputedStyle(document.body).backgroundColor")

        assert background() == "rgb(255, 255, 255)"
        seen.page.emulate_media(color_scheme="dark")
        seen.page.wait_for_function("document.documentElement.dataset.bsTheme === 'dark'")
        red, *_ = background().removeprefix("rgb(").split(",")
        assert int(red) < 60
        assert seen.page.locator("footer").inner_text().startswith("nero-optim ")
