"""A prompt's tokens as readable text: every token with its characters, role and line."""

from __future__ import annotations

from typing import Any

from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.prompts import Prompt


def tokens(model: Any, prompt: Prompt) -> list[dict[str, Any]]:
    """One entry per token, in order.

    `text` holds its characters (empty if an earlier token already has them, as in an emoji of several tokens), `gap`
    the characters before it that belong to no token, `role` w, p, q or nothing.
    """
    role = dict.fromkeys(prompt.w, "w") | dict.fromkeys(prompt.label_positions, "p") | {prompt.target: "q"}
    tokenizer = hooked(model).tokenizer
    if not prompt.offsets:
        return [
            {"text": token_text(tokenizer, token), "gap": "", "role": role.get(i, "")}
            for i, token in enumerate(prompt.tokens)
        ]
    shown, entries = 0, []
    for i, (start, stop) in enumerate(prompt.offsets):
        begin = max(start, shown)
        text = prompt.string[begin:stop]
        if stop == 0:  # a token without characters, such as BOS
            text = token_text(tokenizer, prompt.tokens[i])
        gap = prompt.string[shown:begin] if stop else ""
        if text and gap.isspace():  # a token's own space, which some tokenizers leave out of its offsets
            text, gap = gap + text, ""
        entries.append({"text": text, "gap": gap, "role": role.get(i, "")})
        shown = max(shown, stop)
    return entries


def blocks(prompt: Prompt) -> list[dict[str, Any]]:
    """The demonstrations, which a page can fold: first token, the one after the last, label tokens, class."""
    return [
        {"span": list(one.span), "label": list(one.label), "class": one.label_class} for one in prompt.demonstrations
    ]
