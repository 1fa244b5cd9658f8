"""A warning where a tokenizer has no words for a task's texts, but spells them letter by letter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from mechicl.models.tokenizers import MOSTLY_SPELLED, spelled
from mechicl.prompts import Prompt

_LOOKED_AT = 8
"""Prompts; those of a task are alike."""


def warn_if_spelled(prompts: Sequence[Prompt], task: str) -> None:
    """Warn where most Latin letters are tokens of their own: the model was not trained on this language."""
    looked_at = prompts[:_LOOKED_AT]
    share = spelled(prompt.string[start:end] for prompt in looked_at for start, end in prompt.offsets or ())
    if share > MOSTLY_SPELLED:
        warnings.warn(
            f"The tokenizer spells {share:.0%} of the letters of {task!r} one by one, so the model hardly knows this "
            "language and its numbers say little; tiny-icl speaks only that of tiny-topics-2 and tiny-topics-4.",
            stacklevel=3,
        )
