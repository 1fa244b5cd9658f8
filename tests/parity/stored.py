"""Prompts as the fixtures store them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
