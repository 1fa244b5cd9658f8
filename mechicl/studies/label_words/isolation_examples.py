"""Prompts whose predictions change most under isolation (App. C, Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mechicl.errors import InputError
from mechicl.models.tokenizers import token_text
from mechicl.results import Result
from mechicl.studies.drawing import where
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.predictions import PROMPT


def isolation_examples(result: Result, tokenizer: Any, *, n: int = 5, k: int = 5) -> pd.DataFrame:
    """Prompts whose most probable words change most when label words are isolated in the first layers (App. C).

    Columns: prompt, predicted class index with and without isolation, and the k most probable words of each.
    """
    if not isinstance(result.study, Isolation):
        raise InputError(f"isolation_examples reads results of the study isolation, not of {result.name}.")
    rows = where(result.study.loyalty(result.table), isolated="label words", where="first")
    rows = rows[rows["n_layers"] == rows["n_layers"].max()].nsmallest(n, "word_loyalty_5", keep="first")

    def words(ids: Sequence[int]) -> list[str]:
        return [token_text(tokenizer, int(token)) for token in ids[:k]]

    table: pd.DataFrame = rows[[*PROMPT, "n_layers", "gold"]].assign(
        predicted_whole=rows["predicted_clean"],
        predicted_isolated=rows["predicted"],
        words_whole=rows["top_tokens_clean"].map(words),
        words_isolated=rows["top_tokens"].map(words),
    )
    return table
