"""Prompts as a conversation: every example is a turn of the user, its label word the answer.

The tokenizer's chat template is rendered with random placeholders for texts and label words, and split at them, so
positions are known as in any other prompt. The result is compared with the template rendered with the texts themselves
(`check_rendered`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from mechicl.errors import InputError, first_line, retold
from mechicl.prompts.template import Template


@dataclass(frozen=True)
class Layout:
    """How the examples of a prompt are written."""

    templates: tuple[Template, ...]
    """One per demonstration, and the query's."""
    label_words: tuple[str, ...]


def chat_layout(tokenizer: Any, template: Template, label_words: Sequence[str], n: int) -> Layout:
    """The layout of a conversation with n answers before the question.

    A label word begins its answer: it has no space in front, unless the chat template writes one there.

    Raises:
        InputError: The tokenizer has no chat template, or one that changes texts, or that writes given answers
            differently from requested ones.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "This tokenizer has no chat template; leave out chat=True (--chat), or use a model that was trained for it."
        )
    heads, middles, between = _pieces(tokenizer, template, n)
    if not n:  # how answers begin shows only if there is one
        words = chat_layout(tokenizer, template, label_words, 1).label_words
        return Layout((Template(heads[0], between, "", ""),), words)
    (middle, *others) = dict.fromkeys(middles)
    space = middle.removeprefix(between)
    if others or not between or middle != between + space or space.strip():
        raise InputError(
            "The chat template of this tokenizer writes the answer of a demonstration differently from the answer it "
            "asks for, so no token scores a class in both; leave out chat=True (--chat)."
        )
    ends = [_pieces(tokenizer, template, k, ask=False)[2] for k in range(1, n + 1)]
    ends = [end if head.startswith(end) else "" for end, head in zip(ends, heads[1:], strict=True)]
    starts = [heads[0], *(head.removeprefix(end) for end, head in zip(ends, heads[1:], strict=True))]
    blocks = zip(starts, [*ends, ends[-1]], strict=True)
    return Layout(
        tuple(Template(start, between, end, "") for start, end in blocks),
        tuple(space + word.strip() for word in label_words),
    )


def check_rendered(
    tokenizer: Any, template: Template, texts: Sequence[str | None], words: Sequence[str], string: str
) -> None:
    """Raise InputError unless a prompt equals the chat template's rendering of its texts and demonstrations' words."""
    if _rendered(tokenizer, template, texts, words) != string:
        raise InputError(
            "The chat template of this tokenizer changes some of the texts, such as their spaces, so positions in them "
            "are not known; leave out chat=True (--chat), or change those texts."
        )


def _pieces(tokenizer: Any, template: Template, n: int, *, ask: bool = True) -> tuple[list[str], list[str], str]:
    """The chat template's parts before each text, before its answer, and at the end, with or without a question."""
    texts, words = [_secret() for _ in range(n + ask)], [_secret() for _ in range(n)]
    names = [name for pair in zip(texts, [*words, ""], strict=False) for name in pair if name]
    rest, pieces = _rendered(tokenizer, template, texts, words), []
    for name in names:
        piece, found, rest = rest.partition(name)
        if not found or name in rest:
            raise InputError(
                "The chat template of this tokenizer leaves out or repeats texts; leave out chat=True (--chat)."
            )
        pieces.append(piece)
    return pieces[::2], pieces[1::2], rest


def _secret() -> str:
    return f"\ue000{token_hex(8)}\ue000"


def _rendered(tokenizer: Any, template: Template, texts: Sequence[str | None], words: Sequence[str]) -> str:
    """The chat template rendered with these texts and answers, and a prompt to answer if there is one more text."""
    asked = [template.before.rstrip(" ") if text is None else template.before + text for text in texts]
    turns = [{"role": "user", "content": text + template.between} for text in asked]
    answers = [{"role": "assistant", "content": word.strip() + template.after} for word in words]
    messages = [turn for pair in zip(turns, [*answers, None], strict=False) for turn in pair if turn]
    with retold(lambda error: f"The chat template of this tokenizer cannot be used ({first_line(error)})."):
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(texts) > len(words))
        )
