"""The report, as a browser shows it."""

from __future__ import annotations

from pathlib import Path

from tests.browser import Browser


def test_the_browser_writes_down_what_goes_wrong(browser: Browser, tmp_path: Path) -> None:
    """The control of every test below: errors and requests would be seen."""
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>x</title><img src='http://example.org/a.png'><script>nothing()</script>")
    tab = browser.open(page)
    assert any("nothing" in error for error in tab.errors)
    assert tab.requests == ["http://example.org/a.png"]
