"""Prompts whose predictions change most under isolation (App. C, Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mechicl.errors import InputError
from mechicl.models.tokenizers import token_text
from mechicl.results import Result
from mechicl.studies.drawing import where
from mechicl.studies.label_words.predictions import PROMPT, PredictionStudy


def isolation_examples(result: Result, tokenizer: Any = None, *, n: int = 5, k: int = 5) -> pd.DataFrame:
    """Prompts whose most probable words change most with label words isolated in the first layers (App. C, Table 5).

    Columns: prompt, predicted class index with and without isolation, and the k most probable words of each. Without a
    tokenizer, the words are the five that the result holds.
    """
    study = result.study
    if not isinstance(study, PredictionStudy) or result.name != "isolation":
        raise InputError(f"isolation_examples reads results of the study isolation, not of {result.name}.")
    rows = where(study.loyalty(result.table), isolated="label words", where="first")
    rows = rows[rows["n_layers"] == rows["n_layers"].max()].nsmallest(n, "word_loyalty_5", keep="first")

    stored = dict[int, str]()
    if tokenizer is None:
        if "top_words" not in result.table or not all(map(len, result.table["top_words"])):
            raise InputError("This result holds no words; give isolation_examples the model's tokenizer.")
        for ids, texts in zip(result.table["top_tokens"], result.table["top_words"], strict=True):
            stored |= zip(map(int, ids), texts, strict=False)

    def words(ids: Sequence[int]) -> list[str]:
        return [stored.get(int(token)) or token_text(tokenizer, int(token)) for token in ids[:k]]

    table: pd.DataFrame = rows[[*PROMPT, "n_layers", "gold"]].assign(
        predicted_clean=rows["predicted_clean"],
        predicted_isolated=rows["predicted"],
        words_clean=rows["top_tokens_clean"].map(words),
        words_isolated=rows["top_tokens"].map(words),
    )
    return table
