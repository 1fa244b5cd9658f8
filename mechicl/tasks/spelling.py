"""Whether a tokenizer has words for a text, or spells it letter by letter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from mechicl.prompts import Prompt

_LOOKED_AT = 8
"""Prompts; those of a task are alike."""
_MOST = 0.5
"""Share of letters that stand alone; of English in a tokenizer of English less than a tenth do."""


def warn_if_spelled(prompts: Sequence[Prompt], task: str) -> None:
    """Warn where most Latin letters are tokens of their own: the model was not trained on this language."""
    share = spelled(prompts[:_LOOKED_AT])
    if share > _MOST:
        warnings.warn(
            f"The tokenizer spells {share:.0%} of the letters of {task!r} one by one, so the model hardly knows this "
            "language and its numbers say little; tiny-icl speaks only that of tiny-topics-2 and tiny-topics-4.",
            stacklevel=3,
        )


def spelled(prompts: Sequence[Prompt]) -> float:
    """Share of the Latin letters in these prompts that are tokens of one letter."""
    alone = letters = 0
    for prompt in prompts:
        for start, end in prompt.offsets or ():
            found = sum(c.isascii() and c.isalpha() for c in prompt.string[start:end])
            letters += found
            alone += found == 1
    return alone / max(letters, 1)
