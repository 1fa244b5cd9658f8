"""With CI=true nothing is skipped because a package is missing; a missing GPU, browser, folder or network may skip."""

from __future__ import annotations

import pytest

from tests.conftest import without_missing_packages


def outcome_of(reason: str) -> str:
    report = pytest.TestReport("t", ("t.py", 1, "t"), {}, "skipped", ("t.py", 1, f"Skipped: {reason}"), "call")
    return str(without_missing_packages(report).outcome)


@pytest.mark.parametrize("reason", [None, "lm_eval is not installed"])
def test_a_missing_package_fails_the_gate(reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception) as told:
        pytest.importorskip("no_such_package", reason=reason)
    for ci, outcome in (("true", "failed"), ("", "skipped")):
        monkeypatch.setenv("CI", ci)
        assert outcome_of(str(told.value.msg)) == outcome


@pytest.mark.parametrize("reason", ["no browser: none of chromium is installed", "no shared models and data in /x"])
def test_what_no_package_gives_may_be_missing(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert outcome_of(reason) == "skipped"
