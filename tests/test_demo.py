"""The demo: the shipped model, its own language, one page, no network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mechicl.cli import demo as demo_command
from mechicl.cli import main
from mechicl.studies import load_result


def test_demo_ends_with_the_page_and_a_second_run_reuses_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_command, "SEEDS", (42,))
    monkeypatch.setattr(demo_command, "SAMPLES", 4)
    monkeypatch.setattr(sys, "argv", ["mechicl", "demo", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="0"):
        main()
    page = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert page == tmp_path / "out" / "report.html"
    html = page.read_text()
    assert "<script src" not in html, "it opens offline"
    assert "<link" not in html
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    first = load_result(tmp_path / "out", "information-flow").table
    with pytest.raises(SystemExit, match="0"):
        main()
    assert cells == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    assert first.equals(load_result(tmp_path / "out", "information-flow").table)
