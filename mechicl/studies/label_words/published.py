"""What the paper reports in numbers (Tables 1 and 2), to be held against what was measured.

The paper's models are GPT2-XL and GPT-J; its other results are figures without printed values.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mechicl.results import Result
from mechicl.studies.label_words.compression import PUBLISHED as TABLE_2
from mechicl.studies.label_words.compression import Compression
from mechicl.studies.label_words.reweighting import PUBLISHED as TABLE_1
from mechicl.studies.label_words.reweighting import Reweighting

_COLUMNS = ["quantity", "task", "GPT2-XL", "GPT-J", "measured"]
_METRICS = ("label_loyalty", "word_loyalty_5", "accuracy")


def against_published(results: Sequence[Result]) -> pd.DataFrame:
    """Published beside measured, in percent: quantity, task, GPT2-XL, GPT-J, measured; empty where nothing is known."""
    rows: list[list[object]] = []
    for result in results:
        if result.name == Reweighting.name:
            rows += _table_1(result.summary())
        elif result.name == Compression.name:
            rows += _table_2(result.summary())
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


def _percent(value: object) -> str:
    return f"{100 * float(str(value)):.2f}"
