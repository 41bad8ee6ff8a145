"""What the documentation shows works: docstring examples, and the code blocks of the pages."""

import doctest
import inspect
import re
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nero
import nero.geometry
import nero.integrations
import nero.integrations.transformers
import nero.measures
import nero.neurons
from pages import PAGES, ROOT, blocks, name

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_names(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that are public in `module`, under their dotted names."""
    own = [n for n, x in vars(module).items() if getattr(x, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [n for n in own if not n.startswith("_")])
    members = {f"{module.__name__}.{name}": getattr(module, name) for name in names}
    return {n: x for n, x in members.items() if inspect.isclass(x) or inspect.isfunction(x)}


PUBLIC = {
    name: member
    for module in (
        nero,
        nero.geometry,
        nero.integrations,
        nero.integrations.transformers,
        nero.measures,
        nero.neurons,
    )
    for name, member in public_names(module).items()
}


def run_examples(test: doctest.DocTest) -> None:
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, out=output.append, clear_globs=False)
    assert runner.failures == 0, "".join(output)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_examples(name: str) -> None:
    found = doctest.DocTestFinder().find(PUBLIC[name], name, globs={})
    assert any(test.examples for test in found if test.name == name), (
        f"{name} is public and its docstring has no example (or should it be private, "
        "or left out of its module's __all__?)"
    )
    for test in found:
        run_examples(test)
        # A section "Example" is text to the reference's parser, which runs its lines together.
        assert not re.search(r"^ *Example:$", test.docstring or "", re.MULTILINE), test.name


def run_page(text: str, source: str) -> int:
    """Run the blocks of one page in order, in one namespace; the number of blocks.

    Blocks of files that the reader writes are left to tests/test_docs_commands.py.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = [block for block in blocks(text) if block.language in ("python", "pycon")]
    for block in found:
        if block.file:
            continue
        if block.language == "python":
            # The blank lines make a traceback name the line of the page.
            exec(compile("\n" * (block.line + 1) + block.code, source, "exec"), namespace)
        else:
            parser = doctest.DocTestParser()
            test = parser.get_doctest(block.code, namespace, source, source, block.line + 1)
            run_examples(test)
            namespace.update(test.globs)
    return len(found)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    opened = len(re.findall(r"^ *```py", text, re.MULTILINE))
    assert run_page(text, str(page)) == opened, "a code block is not closed as it was opened"


def naming_pages() -> list[Path]:
    """Return the files, apart from the pages, that name pages by their path."""
    code = (p for folder in ("src", "tests", "examples") for p in (ROOT / folder).glob("**/*.py"))
    return [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")), *code]


def test_pages_that_are_named_exist() -> None:
    found = {
        (str(path.relative_to(ROOT)), page)
        for path in naming_pages()
        for page in re.findall(r"\bdocs/[\w./-]+\.(?:md|png)\b", path.read_text("utf-8"))
    }
    assert len(found) > 10
    assert [named for named in sorted(found) if not (ROOT / named[1]).exists()] == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_tests_that_the_page_of_faults_names_exist() -> None:
    page = (ROOT / "docs" / "evidence" / "faults.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 40
    gone = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (ROOT / "tests" / file).read_text("utf-8")
    ]
    assert gone == []


def test_links_of_the_readme_lead_to_a_page_and_a_heading() -> None:
    """Links between the pages of docs/ are checked by `mkdocs build --strict`."""
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text)
    assert len(links) > 10
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        assert not anchor or anchor in anchors(ROOT / path), (path, anchor)


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(p.read_text("utf-8") for p in (ROOT / "docs/reference").glob("*.md"))
    documented = set(re.findall(r"^::: nero\.(\w+)", reference, re.MULTILINE))
    assert set(nero.__all__) - documented == set()


def test_entries_of_the_log_have_question_result_and_decision() -> None:
    _, *entries = (ROOT / "docs/evidence/log.md").read_text("utf-8").split("\n## ")
    assert len(entries) > 10
    for entry in entries:
        parts = set(re.findall(r"\*\*(Question|Result|Decision)\b", entry))
        assert parts == {"Question", "Result", "Decision"}, entry.splitlines()[0]
        assert entry.count("<details") == entry.count("</details>"), entry.splitlines()[0]


def test_the_front_pages_show_code() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        assert any(block.language == "python" for block in blocks(page.read_text("utf-8"))), page


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", '"page.md", line 6'),
        ("1. item:\n\n    ```python\n    raise ValueError\n    ```\n", '"page.md", line 4'),
        ("```pycon\n>>> 1 + 1\n3\n```\n", '"page.md", line 2'),
    ],
)
def test_a_wrong_page_fails(text: str, error: str) -> None:
    with pytest.raises((AssertionError, ValueError)) as caught:
        run_page(text, "page.md")
    assert error in "".join(traceback.format_exception(caught.value))
