"""What 0.1.0 saved (commit 1e4345f, in `saved_by_0_1_0`) loads."""

from __future__ import annotations

from pathlib import Path

from mechicl.engines.context import Context
from mechicl.patches import ReweightAnchors
from mechicl.probes import TunedLens
from mechicl.results import Cells
from mechicl.studies import load_result
from tests import tiny

FOLDER = Path(__file__).parent / "saved_by_0_1_0"


def test_a_result() -> None:
    result = load_result(FOLDER, "isolation")
    assert len(result.table) == 10
    assert {type(value) for value in result.table["top_tokens"]} == {list}
    assert result.table["label_probs"].map(len).eq(2).all()
    assert result.finding()
    assert len(result.summary()) == 12
    assert result.figure().data


def test_a_context() -> None:
    context = Context.load(FOLDER / "context")
    assert len(context.layers) == tiny.N_LAYERS


def test_a_reweighting() -> None:
    assert ReweightAnchors.load(FOLDER / "reweighting").beta.shape[:2] == (tiny.N_LAYERS, tiny.N_HEADS)


def test_a_lens() -> None:
    TunedLens.load(FOLDER / "lens").check(tiny.model("gpt2"))


def test_its_cells_are_left_alone(tmp_path: Path) -> None:
    old = tmp_path / "cells" / "0e1d77a74968c8fc0f5defc3.b04c9b0d2ffe09b9.parquet"
    old.parent.mkdir()
    old.write_bytes((FOLDER / "isolation.parquet").read_bytes())
    assert Cells(tmp_path).find({"k": 1}) is None
    assert old.exists()
