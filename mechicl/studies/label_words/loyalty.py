"""How far a changed model agrees with the whole one: label loyalty and word loyalty (section 2.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from mechicl.hooks import Run
from mechicl.metrics import jaccard
from mechicl.models import hooked
from mechicl.probes import TopTokens
from mechicl.prompts import PromptSet

LOYALTIES = ("label_loyalty", "word_loyalty_5", "word_loyalty_10")
TITLES = {
    "label_loyalty": "label loyalty",
    "word_loyalty_5": "word loyalty, k = 5",
    "word_loyalty_10": "word loyalty, k = 10",
    "accuracy": "accuracy",
}
PROMPT = ["model", "task", "seed", "shots", "prompt"]


def top_tokens(model: Any) -> TopTokens:
    """Reads the ten most probable next tokens."""
    return TopTokens(min(10, hooked(model).sizes.d_vocab))


def prediction_rows(prompts: PromptSet, seen: Run, top: TopTokens) -> pd.DataFrame:
    """A row per prompt: gold and predicted class, label probabilities, most probable tokens."""
    return pd.DataFrame(
        {
            "prompt": np.arange(len(prompts)),
            "gold": prompts.gold.numpy(),
            "predicted": seen.predicted.numpy(),
            "label_probs": seen.label_probs.tolist(),
            "top_tokens": seen[top].values.tolist(),
        }
    )


def with_loyalty(changed: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """Rows with their agreement with the whole model's prediction of the same prompt, between 0 and 1."""
    reference = whole[[*PROMPT, "predicted", "top_tokens"]]
    rows = changed.merge(reference, on=PROMPT, suffixes=("", "_whole"))
    ids = torch.tensor(np.stack(rows["top_tokens"].to_list()))
    theirs = torch.tensor(np.stack(rows["top_tokens_whole"].to_list()))
    return rows.assign(
        label_loyalty=(rows["predicted"] == rows["predicted_whole"]).astype(float),
        **{f"word_loyalty_{k}": jaccard(ids[:, :k], theirs[:, :k]).numpy() for k in (5, 10)},
    )
