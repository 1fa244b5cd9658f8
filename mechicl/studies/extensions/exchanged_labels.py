"""A prompt's twin: the same tokens, except that the demonstrations' label words are exchanged."""

from __future__ import annotations

from dataclasses import replace

from mechicl.errors import InputError
from mechicl.prompts import Prompt


def with_exchanged_labels(prompt: Prompt, only: int | None = None) -> Prompt:
    """Give every demonstration, or only this one, the next class's label word; texts, template and query are unchanged.

    Positions are the same as in the prompt. The twin's text is not written out.

    Raises:
        InputError: a class without a demonstration, or label words of different numbers of tokens.
    """
    n_classes = len(prompt.label_ids)
    words = {one.label_class: tuple(prompt.tokens[place] for place in one.label) for one in prompt.demonstrations}
    if set(words) != set(range(n_classes)):
        raise InputError("Labels are exchanged among demonstrations of every class; use shots=1 or more.")
    if len({len(word) for word in words.values()}) > 1:
        lengths = ", ".join(f"{prompt.label_words[c]!r} {len(words[c])}" for c in sorted(words))
        raise InputError(
            f"Label words of different numbers of tokens cannot take each other's places ({lengths}); choose others."
        )
    tokens, demonstrations = list(prompt.tokens), []
    for number, one in enumerate(prompt.demonstrations):
        if only not in (None, number):
            demonstrations.append(one)
            continue
        given = (one.label_class + 1) % n_classes
        for place, token in zip(one.label, words[given], strict=True):
            tokens[place] = token
        demonstrations.append(replace(one, label_class=given))
    return replace(prompt, tokens=tuple(tokens), demonstrations=tuple(demonstrations), string="", offsets=())
