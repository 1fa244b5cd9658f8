"""A headless Chromium for tests of pages: what a page logs and asks of the network is written down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Tab:
    """An open page: playwright's `page`, with what went wrong on it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and exceptions that nothing caught."""
    requests: list[str] = field(default_factory=list)
    """Addresses asked for, beyond the page itself."""

    def fits(self) -> bool:
        """Whether nothing stands out of the window sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


class Browser:
    """Opens pages from disk, without network."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self._contexts: list[Any] = []

    def open(self, path: Path, *, width: int = 1280, height: int = 900, scheme: str = "light", **options: Any) -> Tab:
        """Open a file; `scheme` is "light" or "dark", `options` are those of playwright's `new_context`."""
        context = self._chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, **options
        )
        self._contexts.append(context)
        tab = Tab(context.new_page())
        address = path.resolve().as_uri()
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("console", lambda said: tab.errors.append(said.text) if said.type in ("error", "warning") else None)
        tab.page.on("request", lambda asked: None if _own(asked.url, address) else tab.requests.append(asked.url))
        tab.page.goto(address)
        if tab.page.locator("script#plotly").count():  # of a report, which unpacks the script that draws
            tab.page.wait_for_selector("html[data-drawn]", state="attached")
        return tab

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self._contexts.clear()


def _own(url: str, address: str) -> bool:
    return url.split("#")[0] == address or url.startswith(("data:", "blob:"))


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser object; the test is skipped where there is no playwright or no Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("MECHICL_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed (or set MECHICL_CHROMIUM)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
