"""From positions to sequences to means: every token weighs the same, whole sequences are resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.studies.summary import mean_with_interval


class SequenceMeans:
    """Means of several values over chosen positions of each sequence, with the number of positions beside them."""

    def __init__(self) -> None:
        self._columns: dict[str, Tensor] = {}

    def add(self, positions: Bool[Tensor, "batch pos"], counted: str, **values: Float[Tensor, "row batch pos"]) -> None:
        """Average these values over these positions; the column `counted` says how many there are."""
        n = positions.sum(-1)
        if not bool(n.all()):
            raise InputError("A sequence has no position to measure; leave out texts of one or two tokens.")
        for name, value in values.items():
            self._columns[name] = torch.where(positions, value, 0).double().sum(-1) / n
        rows = len(next(iter(values.values())))
        self._columns[counted] = n.expand(rows, -1)

    def tables(self, sequences: Sequence[int], facts: Sequence[Mapping[Any, Any]]) -> list[pd.DataFrame]:
        """A table per row, with its facts, and with a row per sequence."""
        return [
            pd.DataFrame({**own, "sequence": sequences, **{name: of[i].tolist() for name, of in self._columns.items()}})
            for i, own in enumerate(facts)
        ]


def accuracy_by_sequence(sequences: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Per sequence the share of its contexts that were told right, and their number: sequence, accuracy, contexts."""
    groups = pd.DataFrame({"sequence": sequences, "right": right.astype(float)}).groupby("sequence")["right"]
    return groups.agg(accuracy="mean", contexts="size").reset_index()


def weighted_summary(table: pd.DataFrame, weights: Mapping[str, str], by: Sequence[str], x: str) -> pd.DataFrame:
    """Means of several columns, each weighted by a column of counts: `by`, metric, x, mean, low, high, n, seeds.

    Rows of weight 0 (a sequence without a single case) tell nothing and are left out.
    """
    parts = []
    for metric, weight in weights.items():
        rows = table[[*by, x, metric, weight]].rename(columns={metric: "value", weight: "weight"})
        rows = rows[rows["weight"] > 0].assign(metric=metric)
        if len(rows):
            parts.append(mean_with_interval(rows, "value", [*by, "metric", x], weight="weight"))
    return pd.concat(parts, ignore_index=True)
