"""The paper's published numbers, for comparison with measured ones.

Tables 1, 2, 3 and 6, the height that the AUROC approaches, the accuracy with unrelated labels, and values that others
read off Fig. 6; its other results are figures without printed values. The paper's models are GPT2-XL and GPT-J, with
one demonstration per class: results with more shots are compared only with the rows about more shots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from mechicl.results import Result
from mechicl.studies.drawing import where
from mechicl.studies.label_words.compression import Compression
from mechicl.studies.label_words.compression_speed import ANCHORS, CompressionSpeed
from mechicl.studies.label_words.deep_layers import AVERAGE, DeepLayers
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis
from mechicl.studies.label_words.pairs import real_matrix
from mechicl.studies.label_words.reweighting import Reweighting
from mechicl.studies.label_words.tables import TABLE_1, TABLE_2, TABLE_3, TABLE_6, published_accuracy

_METRICS = {"label_loyalty": "label loyalty", "word_loyalty_5": "word loyalty, k = 5", "accuracy": "accuracy"}
_MEAN = "mean of tasks"
_FIG_6 = {("ABBR", "DESC"): (76, 45), ("ABBR", "ENTY"): (84, 49)}
"""Real and predicted confusion of two pairs, in percent, as others read them off Fig. 6."""
_DIGITS = {"%": 2, "times": 1}
UNRELATED = "sst2 (A, B)"
"""The task of appendix F.2, with 8 demonstrations per class."""


class _Row(NamedTuple):
    """One quantity; values are formatted."""

    quantity: str
    task: str
    xl: object
    j: object
    measured: str
    unit: str = "%"


def against_published(results: Sequence[Result]) -> pd.DataFrame:
    """Published and measured values: quantity, unit, task, GPT2-XL, GPT-J, and a column per protocol that we measured.

    Measured values have an interval if they are a single mean; unknown values are empty.
    """
    compare = {
        Reweighting.name: _table_1, Compression.name: _table_2, CompressionSpeed.name: _tables_3_and_6,
        DeepLayers.name: _deep_layers, ErrorDiagnosis.name: _figure_6,
    }  # fmt: skip
    measured: dict[tuple[object, ...], dict[str, str]] = {}
    protocols = dict.fromkeys(result.study.protocol for result in results)
    for result in results:
        for row in compare[result.name](result) if result.name in compare else ():
            place = (row.quantity, row.unit, row.task, *(_printed(value, row.unit) for value in (row.xl, row.j)))
            measured.setdefault(place, dict.fromkeys(protocols, ""))[result.study.protocol] = row.measured
    columns = [f"measured, {protocol}" for protocol in protocols]
    rows = [[*quantity, *values.values()] for quantity, values in measured.items()]
    return pd.DataFrame(rows, columns=["quantity", "unit", "task", "GPT2-XL", "GPT-J", *columns])


def _printed(value: object, unit: str) -> str:
    """A published number with the digits that the paper prints of this unit."""
    return f"{value:.{_DIGITS[unit]}f}" if isinstance(value, float) else str(value)


def _one_shot(summary: pd.DataFrame) -> pd.DataFrame:
    return summary[summary["shots"].astype(str) == "1"]


def _table_1(result: Result) -> Iterator[_Row]:
    """Accuracy of each task and, if the tasks are the paper's four, their mean."""
    accuracy = where(_one_shot(result.summary()), metric="accuracy")
    for method, values in TABLE_1.items():
        known = dict[str, float]()
        for _, row in where(accuracy, method=method).iterrows():
            task, shots = row["task"], "" if row["per_class"] == "1" else f" ({row['per_class']})"
            published = published_accuracy(method, task, where(accuracy, task=task))
            if published is not None:
                known[task] = published
            measured = _percent(row["mean"], row["low"], row["high"])
            yield _Row(f"accuracy, {method}{shots}", task, known.get(task, ""), "", measured)
        if set(known) == set(values):
            mean = where(accuracy, method=method).set_index("task")["mean"][list(known)].mean()
            yield _Row(f"accuracy, {method}", _MEAN, sum(known.values()) / len(known), "", _percent(mean))


def _table_2(result: Result) -> Iterator[_Row]:
    """The paper's rows: label words and template kept, with the query placements of the authors' code."""
    summary = _one_shot(result.summary())
    kept = summary[summary["kept"].isin(["", "label+template"])]
    tasks = sorted(set(kept["task"]))
    of_tasks = _MEAN if set(tasks) == set(TABLE_3) else f"{', '.join(tasks)} (published: mean of four tasks)"
    means = kept.groupby(["method", "positions", "metric"])["mean"].mean()
    for method, (xl, j) in TABLE_2.items():
        for positions in ("", "original", "zero"):
            placement = f", query at {positions} positions" if positions else ""
            for place, (metric, title) in enumerate(_METRICS.items()):
                if (method, positions, metric) in means.index:
                    measured = _percent(means[method, positions, metric])
                    yield _Row(f"{title}, {method}{placement}", of_tasks, xl[place], j[place], measured)


def _tables_3_and_6(result: Result) -> Iterator[_Row]:
    """Speed-ups (the paper does not state its machine), and the lengths that explain them; neither in percent."""
    summary = _one_shot(result.summary())
    fast = where(summary, metric="times_as_fast", arm=ANCHORS).set_index("task")["mean"]
    for task, times in fast.items():
        of_xl, of_j = TABLE_3.get(str(task), ("", ""))
        yield _Row("times as fast, anchor cache", str(task), of_xl, of_j, f"{times:.2f}", "times")
    if set(fast.index) >= set(TABLE_3):
        xl, j = (sum(column) / len(TABLE_3) for column in zip(*TABLE_3.values(), strict=True))
        mean = fast[list(TABLE_3)].mean()
        yield _Row("times as fast, anchor cache", _MEAN, f"{xl:.3f}", f"{j:.3f}", f"{mean:.3f}", "times")
    shown = _one_shot(result.table)
    for task, (demonstrations, query) in TABLE_6.items():
        rows = where(shown, task=task, arm=ANCHORS)
        for name, column, known in (("L_demo", "demonstration_words", demonstrations), ("L_x", "query_words", query)):
            if len(rows):
                yield _Row(f"words of text, {name}", task, known, known, f"{rows[column].mean():.1f}", "words")


def _deep_layers(result: Result) -> Iterator[_Row]:
    """Mean AUROC of the last third of the layers, which approaches 0.8 in the paper; with unrelated labels accuracy."""
    table, summary = result.table, result.summary()
    assert isinstance(result.study, DeepLayers)
    if result.study.weight != "attention":  # the paper does not weight attention by norms
        return
    if set(table["task"]) == {UNRELATED}:
        known = table[(table["gold"] >= 0) & (table["layer"] == 0)]
        right = (known["predicted"] == known["gold"]).mean()
        published = "near chance" if set(table["shots"].astype(str)) == {"8"} else ""
        yield _Row("accuracy (the paper, with LLaMA-33B: 83.0)", UNRELATED, published, published, _percent(right))
        return
    summary = _one_shot(summary)
    n_layers = 1 + int(table["layer"].max())
    deep = summary[(summary["metric"] == "AUCROC") & (summary["layer"] >= n_layers - max(1, n_layers // 3))]
    tasks = [AVERAGE] if AVERAGE in set(deep["task"]) else list(dict.fromkeys(deep["task"]))
    for task in tasks:
        measured = _percent(where(deep, task=task)["mean"].mean())
        yield _Row("AUROC, mean of the last third of the layers", task, "about 80", "about 80", measured)


def _figure_6(result: Result) -> Iterator[_Row]:
    """Two pairs of TREC's classes, with the heat map's layer and number of components."""
    table = _one_shot(where(result.table, task="trec"))
    if not len(table):
        return
    study = result.study
    assert isinstance(study, ErrorDiagnosis)
    matrices = {"real": real_matrix(table), "predicted": study.confusion(table, *study.shown(table))}
    for which, (name, matrix) in enumerate(matrices.items()):
        for (one, other), known in _FIG_6.items():
            if one in matrix.index and other in matrix.index:
                quantity = f"{name} confusion, {one} and {other} (read off Fig. 6)"
                yield _Row(quantity, "trec", known[which], "", _percent(matrix.loc[one, other]))


def _percent(value: object, low: object = None, high: object = None) -> str:
    shown = f"{100 * float(str(value)):.2f}"
    return shown if low is None else f"{shown} [{100 * float(str(low)):.1f}, {100 * float(str(high)):.1f}]"
