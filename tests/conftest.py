"""What every test may use. Tests that need fixtures, real models or real data skip where these are absent."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, chromium

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MECHICL_CACHE", str(Path(__file__).parents[1] / "build" / "cache"))

SHARED = Path(os.environ.get("MECHICL_SHARED", Path(__file__).parents[2] / "shared"))
PARITY = Path(os.environ.get("MECHICL_PARITY_DIR", SHARED / "parity"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run what takes more than twenty seconds")


def pytest_configure(config: pytest.Config) -> None:
    # Generated cases of bad input at every door: a few in the everyday suite, 500 on request.
    os.environ["MECHICL_CASES"] = "500" if config.getoption("--slow") else "40"


def pytest_collection_finish() -> None:
    """What is imported by now stays; the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


_LONGEST = tuple(
    f"tests/{it}" for it in ("contract/", "real/", "test_calibration", "test_cli", "test_notebooks", "test_docs")
)
"""What begins first, so that no process works alone at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes long; run with --slow"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadgroup a module's tests run in one process, so that what they share is made once."""
    from xdist.scheduler import LoadGroupScheduling

    class ByModule(LoadGroupScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return str(super()._split_scope(nodeid)).partition("::")[0]

    config.option.loadscopereorder = False  # the order is that of _LONGEST, not of how many tests a module has
    return ByModule(config, log) if config.getvalue("dist") == "loadgroup" else None


_NO_PACKAGE = re.compile(r"Skipped: (could not import|\S+ is not installed)")


def without_missing_packages(report: Any) -> Any:
    """With CI=true, what skips because a package is not there fails: the step that runs a test has what it needs."""
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("CI") == "true" and _NO_PACKAGE.match(reason):
        report.outcome = "failed"
        report.longrepr = f"With CI=true no test is skipped for want of a package. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return without_missing_packages((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return without_missing_packages((yield))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real models and data."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared models and data in {SHARED} (set MECHICL_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def load_shared_model(shared: Path) -> Any:
    """Load a model of the shared folder, once per session."""
    from functools import cache

    from mechicl.models import load_model

    @cache
    def load(name: str) -> Any:
        folder = shared / "models" / name
        if not folder.is_dir():
            pytest.skip(f"no model {name} in {folder.parent}")
        return load_model(str(folder))

    return load


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Any]:
    # A module's own: playwright's event loop would stand in the way of other modules' asyncio.
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(_chromium: Any) -> Iterator[Browser]:
    """Opens pages in a headless Chromium, see tests/browser.py; its tabs are closed after the test."""
    browser = Browser(_chromium)
    yield browser
    browser.close()


def parity_files(experiment: str) -> list[Any]:
    """Fixtures of one experiment, as pytest parameters; one that skips where there are none."""
    found = sorted(PARITY.glob(f"{experiment}_*.json"))
    if not found:
        skip = pytest.mark.skip(reason=f"no {experiment} fixtures in {PARITY} (set MECHICL_PARITY_DIR)")
        return [pytest.param(None, marks=skip)]
    return [pytest.param(path, id=path.stem) for path in found]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
