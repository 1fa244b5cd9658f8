"""A warning where a tokenizer has no words for English text, but spells it letter by letter."""

from __future__ import annotations

import warnings

from mechicl.corpora.corpus import TokenCorpus
from mechicl.models.tokenizers import MOSTLY_SPELLED, spelled

_LOOKED_AT = 1000
"""Tokens of text."""


def warn_if_spelled(corpus: TokenCorpus) -> None:
    """Warn where most Latin letters are tokens of their own: the model was not trained on English."""
    tokens = corpus.tokens[corpus.documents >= 0][:_LOOKED_AT].tolist()
    share = spelled(corpus.tokenizer.decode([token]) for token in tokens)
    if share > MOSTLY_SPELLED:
        warnings.warn(
            f"The tokenizer spells {share:.0%} of the letters of {corpus.source!r} one by one, so the model hardly "
            "knows English and its numbers say little; the text of tiny-icl is 'tiny-icl'.",
            stacklevel=3,
        )
