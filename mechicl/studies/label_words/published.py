"""What the paper reports in numbers, to be held against what was measured.

Tables 1, 2 and 3, the height that AUCROC approaches, and the accuracy with unrelated labels; its other results are
figures without printed values. Where nothing else is said the paper's models are GPT2-XL and GPT-J.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mechicl.results import Result
from mechicl.studies.label_words.compression import PUBLISHED as TABLE_2
from mechicl.studies.label_words.compression import Compression
from mechicl.studies.label_words.compression_speed import ANCHORS, CompressionSpeed
from mechicl.studies.label_words.compression_speed import PUBLISHED as TABLE_3
from mechicl.studies.label_words.deep_layers import AVERAGE, DeepLayers
from mechicl.studies.label_words.reweighting import PUBLISHED as TABLE_1
from mechicl.studies.label_words.reweighting import Reweighting

_COLUMNS = ["quantity", "task", "GPT2-XL", "GPT-J", "measured"]
_METRICS = ("label_loyalty", "word_loyalty_5", "accuracy")
UNRELATED = "sst2 (A, B)"
"""The task of appendix F.2, with 8 demonstrations of each class."""


def against_published(results: Sequence[Result]) -> pd.DataFrame:
    """Published beside measured, in percent: quantity, task, GPT2-XL, GPT-J, measured; empty where nothing is known."""
    rows: list[list[object]] = []
    for result in results:
        if result.name == Reweighting.name:
            rows += _table_1(result.summary())
        elif result.name == Compression.name:
            rows += _table_2(result.summary())
        elif result.name == CompressionSpeed.name:
            rows += _table_3(result.summary())
        elif result.name == DeepLayers.name:
            rows += _deep_layers(result)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _table_1(summary: pd.DataFrame) -> list[list[object]]:
    accuracy = summary[(summary["metric"] == "accuracy") & summary["method"].isin(list(TABLE_1))]
    found = zip(accuracy["method"], accuracy["task"], accuracy["mean"], strict=True)
    return [
        [f"accuracy, {method}", task, TABLE_1[method].get(task, ""), "", _percent(mean)] for method, task, mean in found
    ]


def _table_2(summary: pd.DataFrame) -> list[list[object]]:
    """The paper's rows: label words and template kept, queries at their original places, mean of the tasks."""
    shown = summary[summary["kept"].isin(["", "label+template"]) & summary["positions"].isin(["", "original"])]
    means = shown.groupby(["method", "metric"])["mean"].mean()
    return [
        [f"{metric}, {method}", "mean", xl[place], j[place], _percent(means[method, metric])]
        for method, (xl, j) in TABLE_2.items()
        for place, metric in enumerate(_METRICS)
        if (method, metric) in means.index
    ]


def _table_3(summary: pd.DataFrame) -> list[list[object]]:
    """Times as fast, not in percent; the paper's machine is not stated."""
    rows = summary[(summary["metric"] == "times_as_fast") & (summary["arm"] == ANCHORS)]
    return [
        ["times as fast, anchor cache", task, *TABLE_3.get(task, ("", "")), f"{mean:.2f}"]
        for task, mean in zip(rows["task"], rows["mean"], strict=True)
    ]


def _deep_layers(result: Result) -> list[list[object]]:
    """The best AUCROC in the deeper half, which approaches 0.8 in the paper; with unrelated labels the accuracy."""
    table, summary = result.table, result.summary()
    if set(table["task"]) == {UNRELATED}:
        known = table[(table["gold"] >= 0) & (table["layer"] == 0)]
        right = (known["predicted"] == known["gold"]).mean()
        published = "near chance" if set(table["shots"].astype(str)) == {"8"} else ""
        return [["accuracy (the paper, with LLaMA-33B: 83.0)", UNRELATED, published, published, _percent(right)]]
    deep = summary[(summary["metric"] == "AUCROC") & (summary["layer"] > summary["layer"].max() // 2)]
    best = deep.groupby("task", sort=False)["mean"].max()
    best = best[[AVERAGE]] if AVERAGE in best.index else best
    return [["best AUCROC of deep layers", task, "about 80", "about 80", _percent(mean)] for task, mean in best.items()]


def _percent(value: object) -> str:
    return f"{100 * float(str(value)):.2f}"
