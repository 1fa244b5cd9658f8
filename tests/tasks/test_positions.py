"""Positions from construction are those that the authors find by searching for a pattern of three tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mechicl.prompts import Prompt
from mechicl.tasks import load_task
from tests.prompts.vocabularies import byte_level
from tests.tasks.rows import FOUR, rows

KEPT = {"sst2": 16, "trec": 50, "agnews": 28, "emo": 32}
"""Tokens that context compression keeps of one demonstration per class, under GPT-2's tokenizer."""


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "models" / "tiny-gpt2")


def searched(prompt: Prompt, tokenizer: Any) -> list[list[int]]:
    """For each class the places of (last token of the answer prefix, ":", first token of the label word)."""
    first, colon = prompt.tokens[-2:]
    return [
        [i for i in range(2, len(prompt)) if prompt.tokens[i - 2 : i + 1] == (first, colon, label)]
        for label in prompt.label_ids
    ]


def ours(prompt: Prompt) -> list[list[int]]:
    return [[d.anchor for d in prompt.demonstrations if d.label_class == c] for c in range(len(prompt.label_ids))]


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("shots", [1, 2])
def test_anchors_equal_the_search(name: str, shots: int) -> None:
    task = load_task(name, data=rows(name))
    tokenizer = byte_level(*task.label_words.values(), "Sentiment", "Answer", " Type", "Emotion")
    for prompt in task.prompts(tokenizer, shots=shots):
        assert ours(prompt) == searched(prompt, tokenizer)
        assert prompt.string[slice(*prompt.offsets[prompt.target])] == ":"


@pytest.mark.parametrize("name", FOUR)
def test_anchors_equal_the_search_on_real_text(name: str, gpt2: Any, shared: Path) -> None:
    folder = shared / "data" / name
    task = load_task(name, data=folder if folder.is_dir() else rows(name))
    for prompt in task.prompts(gpt2, samples=50, shots=2, demonstrations="per_prompt"):
        assert ours(prompt) == searched(prompt, gpt2)
        assert gpt2.convert_ids_to_tokens(prompt.tokens[-1]) == ":"
    (first, *_) = task.prompts(gpt2, samples=1)
    assert len(first.template_positions) + len(first.label_positions) == KEPT[name]
