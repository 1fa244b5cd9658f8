"""Prompts and running text as the fixtures store them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mechicl.corpora import TokenCorpus
from mechicl.prompts import Prompt, PromptSet


def stored_prompts(fixture: dict[str, Any], rows: Sequence[dict[str, Any]] | None = None) -> PromptSet:
    """The fixture's prompts (or other rows of the same form), with the recorded label positions."""
    words = fixture["meta"]["label_words"]
    ids = fixture["meta"]["label_token_ids"]
    classes = sorted(words, key=int)
    return PromptSet.of(
        [
            Prompt.from_positions(
                row["input_ids"],
                row["label_positions"],
                [ids[c] for c in classes],
                row["label"],
                string=row["sentence"],
                label_words=[words[c] for c in classes],
                task=fixture["meta"]["task"],
            )
            for row in rows or fixture["prompts"]
        ]
    )


def stored_corpus(fixture: dict[str, Any]) -> TokenCorpus:
    """The fixture's token sequences, each with its BOS."""
    lengths = torch.tensor([len(row) for row in fixture["tokens"]])
    tokens = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
    for row, ids in enumerate(fixture["tokens"]):
        tokens[row, : len(ids)] = torch.tensor(ids)
    nowhere = torch.full_like(tokens, -1)
    return TokenCorpus(tokens, lengths, nowhere, nowhere, None, True)
