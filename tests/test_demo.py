"""The demo: the shipped model, its own language, one page, no network."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mechicl.cli import demo as demo_command
from mechicl.cli import main
from mechicl.studies import load_result
from mechicl.tasks import Task
from tests import tiny

FILMS = ("plain", "long", "short", "slow", "odd", "new", "old", "loud")
TASK = Task(
    "sentiment",
    "Review: {text}\nSentiment:{label}",
    {"bad": " Negative", "good": " Positive"},
    [{"text": f"a {word} {name} film", "label": name} for word in FILMS * 2 for name in ("bad", "good")],
)


def test_demo_ends_with_the_page_and_a_second_run_reuses_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_command, "TINY", replace(demo_command.TINY, samples=4, seeds=(42,), tokens=126))
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


def test_another_model_is_shown_on_the_tasks_and_text_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `--model smollm2-135m-q4` does, on a tiny folder: both papers on one page."""
    tiny.huggingface("llama").save_pretrained(tmp_path / "llama")
    tiny.tokenizer().save_pretrained(tmp_path / "llama")
    programme = replace(demo_command.REAL, tasks=("sentiment",), samples=4, seeds=(42,), tokens=126)
    monkeypatch.setattr(demo_command, "REAL", programme)
    monkeypatch.setattr("mechicl.tasks.load_task", lambda name, **given: TASK)
    monkeypatch.setattr("mechicl.corpora.sources.pydocs.documents", lambda: ("good film " * 400,))
    monkeypatch.setattr(
        sys, "argv", ["mechicl", "demo", "--model", str(tmp_path / "llama"), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit, match="0"):
        main()
    capsys.readouterr()
    saved = {path.stem for path in (tmp_path / "out").glob("*.parquet")}
    assert saved == {"information-flow", "isolation", "reweighting", "compression", "stages-atlas"}
