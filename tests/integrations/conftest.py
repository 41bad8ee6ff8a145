"""Tests in other libraries, for an environment that has them: `make integrations`.

Where one of them is not installed nothing here is collected. `shows(library, ran, holds)` marks
what a test shows: its line of the table in docs/how-to/libraries.md, which is written where
NERO_TABLE is "write", and compared where it is "check".
"""

import importlib.metadata
import importlib.util
import os
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

LIBRARIES = ("accelerate", "lightning", "peft", "ray", "timm", "transformers")
MISSING = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "libraries.md"
TABLE = re.compile(r"(?<=<!-- table -->\n\n).*(?=\n<!-- end of table -->)", re.DOTALL)
Line = tuple[str, ...]

# accelerate counts cores where nobody says how many threads to use, which some machines do not say.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shows(library, ran, holds): a line of the table")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table())


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest, record_property) -> None:
    torch.manual_seed(0)
    for mark in request.node.iter_markers("shows"):
        record_property("shows", list(mark.args))


class _Table:
    """The table of what the tests of this folder show: lines of which every test has passed."""

    def __init__(self) -> None:
        self._passed: dict[Line, list[bool]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "shows" and (report.when == "call" or not report.passed):
                self._passed[tuple(value)].append(report.passed)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        wanted = os.environ.get("NERO_TABLE")
        if wanted is None:
            return
        page = PAGE.read_text("utf-8")
        found = table([line for line, passed in self._passed.items() if all(passed)])
        if wanted == "write":
            PAGE.write_text(TABLE.sub(lambda _: found, page), "utf-8")
        elif wanted == "check" and found not in TABLE.findall(page):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f"\n{PAGE.name} has another table: `make integrations NERO_TABLE=write`\n{found}")


def table(lines: list[Line]) -> str:
    rows = [
        f"| {library} {importlib.metadata.version(library)} | {ran} | {holds} |"
        for library, ran, holds in sorted(lines, key=lambda line: (line[0].lower(), line[1]))
    ]
    return "\n".join(["| library | what is run | what holds |", "| --- | --- | --- |", *rows, ""])
