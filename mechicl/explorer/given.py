"""Inputs of the explorer: a prompt of a task, a text, or a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.probes import TopTokens
from mechicl.prompts import Prompt, free_prompt

ANSWERS = 5
"""Number of the model's own most probable tokens that score a text."""


def prompt_of(
    model: Any,
    given: Prompt | str | Sequence[Mapping[str, str]],
    answers: Sequence[str] | None,
    prepend_bos: bool,
    verb: str,
) -> Prompt:
    """The given prompt, or one made of a text; without answers its classes are the most probable next tokens.

    Raises:
        InputError: it is something else, or answers are given for a prompt that has its own classes.
    """
    if isinstance(given, Prompt):
        if answers is not None or prepend_bos:
            raise InputError(f"A task's prompt already has answers and BOS; give {verb} only the prompt.")
        return given
    texts = isinstance(given, str) or (
        isinstance(given, Sequence) and bool(given) and all(isinstance(one, Mapping) for one in given)
    )
    if not texts:
        raise InputError(
            f"{verb} looks at one prompt, a text or a list of messages, got {type(given).__name__}; give it "
            "prompts[0], for example."
        )
    if isinstance(answers, str):
        raise InputError(f"answers is a string; give a list, such as answers=[{answers!r}, ' other'].")
    prompt = free_prompt(hooked(model).tokenizer, given, answers or (), prepend_bos=prepend_bos)
    if answers is not None:
        return prompt
    top = TopTokens(min(ANSWERS, hooked(model).sizes.d_vocab))
    ids = run(model, prompt, [top], progress=None)[top].values[0].tolist()
    words = tuple(token_text(hooked(model).tokenizer, token) for token in ids)
    return replace(prompt, label_ids=tuple(ids), label_words=words, class_names=words)
