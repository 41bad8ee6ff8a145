"""The code on the pages of docs/how-to/libraries, and in the docstrings that need a library."""

import doctest
from pathlib import Path
from typing import Any

import pytest

import nero.integrations.lightning
import nero.integrations.timm
from pages import LIBRARY_PAGES, blocks

# What starts at zero in these models is meant to.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the weights start at:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]


@pytest.mark.parametrize("page", LIBRARY_PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    code = [block for block in blocks(page.read_text("utf-8")) if block.language == "python"]
    assert code or page.stem == "others"
    for block in code:
        # The blank lines make a traceback name the line of the page.
        exec(compile("\n" * (block.line + 1) + block.code, str(page), "exec"), namespace)


@pytest.mark.parametrize(
    "member", [nero.integrations.timm.groups_of, nero.integrations.lightning.Watch]
)
def test_docstring_examples(member: Any) -> None:
    found = doctest.DocTestFinder().find(member, member.__name__, globs={})
    assert any(test.examples for test in found)
    for test in found:
        output: list[str] = []
        runner = doctest.DocTestRunner()
        runner.run(test, out=output.append)
        assert runner.failures == 0, "".join(output)
