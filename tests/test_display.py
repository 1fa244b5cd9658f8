"""What things show of themselves in a notebook is small, and text from outside is never markup."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch

import mechicl as mi
from mechicl.claims import Verdicts
from mechicl.results import Result
from tests import claiming, tiny
from tests.random_prompts import random_prompts

HOSTILE = "<script>alert(1)</script>\"'&" + "x" * 10_000


def tags(html: str) -> set[str]:
    return set(re.findall(r"<(\w+)", html))


@dataclass(frozen=True)
class Named(mi.Probe):
    """What is <b>read</b>. And more."""

    name: str = HOSTILE

    def watch(self, model: Any, batch: Any) -> mi.Watch:
        return mi.Watch([], lambda: torch.zeros(len(batch)))


def test_probes_patches_and_runs_show_what_they_are() -> None:
    out = mi.run(tiny.model("gpt2"), random_prompts(3), [Named(), mi.probes.LabelAttention()], progress=None)
    for shown in (Named()._repr_html_(), out._repr_html_()):
        assert tags(shown) <= {"div", "b", "table", "tr", "th", "td", "bdi"}
        assert "&lt;script&gt;" in shown
        assert len(shown) < 3_000
    assert "What is &lt;b&gt;read&lt;/b&gt;<" in Named()._repr_html_()
    assert "of 3 prompts" in out._repr_html_()
    assert "[3, 3, 4, 2]" in out._repr_html_()
    for change in (mi.patches.IsolateLabels([0]), mi.patches.Swap(1), mi.patches.ReweightAnchors(torch.zeros(1, 2, 3))):
        assert type(change).__name__ in change._repr_html_()
    assert "[1, 2, 3]" in mi.patches.ReweightAnchors(torch.zeros(1, 2, 3))._repr_html_()


class Told:
    name = "told"

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        return table

    def figure(self, result: Result) -> go.Figure:
        return go.Figure()

    def finding(self, result: Result) -> str:
        return HOSTILE[:40]

    def details(self, result: Result) -> list[str]:
        return []

    def remarks(self, result: Result, rows: pd.DataFrame) -> list[str]:
        return []

    def verdicts(self, result: Result) -> Verdicts:
        return Verdicts()


def test_a_result_shows_its_finding_and_first_numbers() -> None:
    table = pd.DataFrame(
        {"model": [HOSTILE[:30]] * 20, "metric": "x", "mean": 0.123456, "low": 0.0, "high": 1.0, "n": 3}
    )
    shown = Result(Told(), table, {})._repr_html_()  # type: ignore[arg-type]
    assert tags(shown) <= {"div", "b", "table", "tr", "th", "td", "bdi"}
    assert shown.count("0.1235") == 8
    assert "8 of 20" in shown


def test_a_result_shows_its_verdicts_first() -> None:
    result = claiming.result_of(("sst2", "trec"))
    shown, claims = result._repr_html_(), result.claims._repr_html_()
    assert shown.startswith(claims)
    assert tags(shown) <= {"div", "b", "table", "tr", "th", "td", "bdi"}, "the script of a claim is text"
    assert [claims.count(f">{outcome}<") for outcome in ("supported", "contradicted", "undecided")] == [2, 2, 2]
    assert "Claims: 2 supported, 2 contradicted, 2 undecided." in repr(result)
    assert "Claims" not in repr(Result(Told(), result.table, {}))  # type: ignore[arg-type]
