"""What *Label Words are Anchors* prints stands beside measurements of the same setting, and only there."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from mechicl.results import Result
from mechicl.studies import compression
from mechicl.studies.label_words.compression_speed import CompressionSpeed
from mechicl.studies.label_words.controls import MORE_SHOTS
from mechicl.studies.label_words.published import against_published
from mechicl.studies.label_words.reweighting import Reweighting
from mechicl.studies.label_words.tables import TABLE_1, TABLE_2
from tests import tiny
from tests.engines.test_compression import films


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_every_row_of_table_2_has_its_measurement_in_both_protocols(family: str) -> None:
    """Also where the authors' code puts a query at position 0 (learned positions)."""
    model, measured = tiny.model(family), []
    for protocol in ("corrected", "paper"):
        measured.append(
            compression(
                model, films(), n_sets=1, kept=("label+template",), positions=("original", "packed"), protocol=protocol
            )
        )
    table = against_published(measured)
    for protocol in ("corrected", "paper"):
        held = table.loc[table[f"measured, {protocol}"] != "", "quantity"]
        for method in TABLE_2:
            assert any(f"label loyalty, {method}" in (name, name.split(", query")[0]) for name in held), method
    assert not table["quantity"].str.contains("packed").any(), "the paper has no such placement"


def fitted(tasks: list[str], shots: str, more: str = "5") -> Result:
    rows = [
        {
            "model": "m", "task": task, "shots": shots, "seed": seed, "method": method, "prompt": prompt, "gold": prompt % 2,
            "predicted": 0, "per_class": {MORE_SHOTS: more}.get(method, shots), "gold_name": "ab"[prompt % 2],
        }
        for task in tasks for seed in (42, 43) for method in TABLE_1 for prompt in range(4)
    ]  # fmt: skip
    return Result(Reweighting(), pd.DataFrame(rows), {})


def test_table_1_has_its_average_where_its_four_tasks_are_measured() -> None:
    table = against_published([fitted(list(TABLE_1["vanilla"]), "1")]).set_index(["quantity", "task"])
    average = table.loc["accuracy, re-weighted", "mean of tasks"]
    assert (average["GPT2-XL"], average["measured, corrected"]) == ("68.64", "50.00")
    assert table.loc[("accuracy, vanilla", "trec"), "GPT2-XL"] == "57.56"
    fewer = against_published([fitted(["sst2", "trec"], "1")])
    assert set(fewer["task"]) == {"sst2", "trec"}


def test_ag_news_is_held_against_three_shots_and_the_others_against_five() -> None:
    for more, theirs in (("3", {"agnews": "52.52"}), ("5", {"sst2": "64.75"})):
        table = against_published([fitted(["sst2", "agnews"], "1", more)]).set_index(["quantity", "task"])["GPT2-XL"]
        shown = table.loc[f"accuracy, {MORE_SHOTS} ({more})"]
        assert shown[shown != ""].to_dict() == theirs


def test_more_shots_are_not_held_against_one() -> None:
    assert against_published([fitted(["sst2"], "2")]).empty
    two = compression(tiny.model("gpt2"), films(), n_sets=1, kept=("label",), positions=("original",))
    assert against_published([replace(two, table=two.table.assign(shots="2"))]).empty


def test_table_3_and_the_lengths_of_table_6() -> None:
    common = {"model": "m", "task": "trec", "shots": "1", "seed": 42, "prompt": 0, "predicted": 0, "gold": 0,
              "flops": 1, "cache_bytes": 1, "caching_seconds": 0.0, "tokens": 1, "cached_tokens": 1,
              "demonstration_words": 61, "query_words": 7}  # fmt: skip
    rows = [
        common | {"arm": arm, "seconds": seconds} for arm, seconds in (("full recompute", 3.0), ("anchor cache", 2.0))
    ]
    table = against_published([Result(CompressionSpeed(), pd.DataFrame(rows), {})]).set_index("quantity")
    assert table.loc["times as fast, anchor cache", ["GPT2-XL", "GPT-J", "measured, corrected"]].tolist() == [
        "1.5",
        "2.2",
        "1.50",
    ]
    assert table.loc["words of text, L_demo", ["GPT2-XL", "measured, corrected"]].tolist() == ["61", "61.0"]
