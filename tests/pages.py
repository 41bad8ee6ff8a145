"""The pages of the documentation, and the code blocks on them."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Its code runs where JAX is installed: tests/with_jax/test_docs.py.
JAX_PAGE = ROOT / "docs" / "tutorial" / "jax.md"
# And where those libraries are: tests/integrations/test_pages.py.
LIBRARY_PAGES = sorted((ROOT / "docs" / "how-to" / "libraries").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    *sorted({*(ROOT / "docs").glob("**/*.md")} - {JAX_PAGE, *LIBRARY_PAGES}),
]
BLOCK = re.compile(r'^( *)```(\w+)(?: title="([\w.]+)")?\n(.*?)^\1```$', re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, the file that it belongs to ("" for none), text and line."""

    language: str
    file: str
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    return [
        Block(
            found[2], found[3] or "", textwrap.dedent(found[4]), text.count("\n", 0, found.start())
        )
        for found in BLOCK.finditer(text)
    ]


def files(text: str) -> dict[str, str]:
    """Return the files that a page has its reader write, by name: their blocks joined in order."""
    found: dict[str, str] = {}
    for block in blocks(text):
        if block.file:
            found[block.file] = found.get(block.file, "") + block.code
    return found


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
