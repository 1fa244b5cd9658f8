"""Whether a tokenizer has words for English text, or spells it letter by letter."""

from __future__ import annotations

import warnings

from mechicl.corpora.corpus import TokenCorpus

_LOOKED_AT = 1000
"""Tokens of text."""
_MOST = 0.5
"""Share of letters that stand alone; of English in a tokenizer of English less than a tenth do."""


def warn_if_spelled(corpus: TokenCorpus) -> None:
    """Warn where most Latin letters are tokens of their own: the model was not trained on English."""
    share = spelled(corpus)
    if share > _MOST:
        warnings.warn(
            f"The tokenizer spells {share:.0%} of the letters of {corpus.source!r} one by one, so the model hardly "
            "knows English and its numbers say little; the text of tiny-icl is 'tiny-icl'.",
            stacklevel=3,
        )


def spelled(corpus: TokenCorpus) -> float:
    """Share of the Latin letters of a corpus that are tokens of one letter."""
    tokens = corpus.tokens[corpus.documents >= 0][:_LOOKED_AT].tolist()
    letters: list[int] = [
        sum(c.isascii() and c.isalpha() for c in corpus.tokenizer.decode([token])) for token in tokens
    ]
    return letters.count(1) / max(sum(letters), 1)
