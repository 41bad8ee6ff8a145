"""Headless Chromium for the tests of pages, with whatever it asks for and complains of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
_TIMEOUT = 300_000
"""milliseconds; far more than anything takes"""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@dataclass
class Visit:
    """An opened page."""

    page: Any
    requests: list[str] = field(default_factory=list)
    """every address asked for, in order"""
    complaints: list[str] = field(default_factory=list)
    """errors and warnings of the console, and exceptions that nothing caught"""


@contextmanager
def visit(path: Path) -> Iterator[Visit]:
    """Open a file in a browser that gets nothing but files."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=_ARGUMENTS.split(), timeout=_TIMEOUT
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(_TIMEOUT)
        seen = Visit(page)

        def only_files(route: Any) -> None:
            seen.requests.append(route.request.url)
            if route.request.url.startswith("file:"):
                route.continue_()
            else:
                route.abort()

        page.route("**/*", only_files)
        page.on(
            "console",
            lambda message: (
                seen.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.goto(path.absolute().as_uri())
        try:
            yield seen
        finally:
            browser.close()
