"""From positions to sequences to means: every token has equal weight, and whole sequences are resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.studies.summary import mean_with_interval


def sequence_means(
    facts: pd.DataFrame, sequences: Sequence[int],
    measured: Mapping[str, tuple[Bool[Tensor, "batch pos"], Mapping[str, Float[Tensor, "*fact batch pos"]]]],
) -> pd.DataFrame:  # fmt: skip
    """Means over positions of each sequence: a row for every row of `facts` and every sequence.

    Args:
        facts: What distinguishes the rows of the values.
        sequences: Index of each sequence of the batch.
        measured: By the column that counts positions: the positions, and values to average over them, by column
            (without the first axis if all facts share them).

    Raises:
        InputError: a sequence has none of these positions.
    """
    table = facts.merge(pd.DataFrame({"sequence": sequences}), how="cross")
    for counted, (positions, values) in measured.items():
        n = positions.sum(-1)
        if not n.all():
            raise InputError("A sequence has no position to measure; leave out texts of one or two tokens.")
        for name, value in values.items():
            mean = torch.where(positions, value, 0).double().sum(-1) / n
            table[name] = mean.expand(len(facts), -1).flatten().numpy()
        table[counted] = n.repeat(len(facts)).numpy()
    return table


def accuracy_by_sequence(sequences: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """Accuracy over the contexts of each sequence, and their number: sequence, accuracy, contexts."""
    groups = pd.DataFrame({"sequence": sequences, "correct": correct.astype(float)}).groupby("sequence")["correct"]
    return groups.agg(accuracy="mean", contexts="size").reset_index()


def weighted_summary(
    table: pd.DataFrame, weights: Mapping[str, str], by: Sequence[str] = ("model",), x: str = "layer"
) -> pd.DataFrame:
    """Means of several columns, each weighted by a column of counts: `by`, metric, x, mean, low, high, n, seeds.

    Rows of weight 0 (a sequence without any case) are left out.
    """
    parts = []
    for metric, weight in weights.items():
        rows = table[[*by, x, metric, weight]].rename(columns={metric: "value", weight: "weight"})
        rows = rows[rows["weight"] > 0].assign(metric=metric)
        if len(rows):
            parts.append(mean_with_interval(rows, "value", [*by, "metric", x], weight="weight"))
    return pd.concat(parts, ignore_index=True)


def authors_summary(
    table: pd.DataFrame, metrics: Sequence[str], by: Sequence[str], x: str, *, root_of: float = 1.0
) -> pd.DataFrame:
    """Means as the authors compute them: every document counts the same, and the band is the documents' (population)
    standard deviation over a square root. Columns are those of `weighted_summary`.
    """
    long = table.melt([*by, x], metrics, var_name="metric")
    groups = long.groupby([*by, "metric", x], sort=False)["value"]
    summary = groups.agg(mean="mean", n="size", half=lambda values: values.std(ddof=0) / np.sqrt(root_of)).reset_index()
    low, high = summary["mean"] - summary["half"], summary["mean"] + summary["half"]
    return summary.assign(low=low, high=high, seeds=1).drop(columns="half")


def weighted_means(table: pd.DataFrame, weights: Mapping[str, str], by: Sequence[str]) -> pd.DataFrame:
    """Means of several columns within each group of `by`, each weighted by a column of counts: `by`, sums of the
    counts, and the means.
    """
    products = {metric: table[metric] * table[weight] for metric, weight in weights.items()}
    counts = table[[*by, *dict.fromkeys(weights.values())]]
    sums = counts.assign(**products).groupby(list(by), sort=False, as_index=False).sum()
    return sums.assign(**{metric: sums[metric] / sums[weight] for metric, weight in weights.items()})
