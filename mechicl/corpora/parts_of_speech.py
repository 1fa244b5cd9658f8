"""Parts of speech of running text, by TextBlob's tagger: a lexicon and Brill's rules, which come with the package."""

from __future__ import annotations

import pandas as pd
import torch

from mechicl.corpora.corpus import TokenCorpus
from mechicl.corpora.words import runs
from mechicl.doors import door
from mechicl.errors import InputError

_TAGS = {
    "NN": "noun", "VB": "verb", "MD": "verb", "JJ": "adjective", "RB": "adverb", "WR": "adverb", "PR": "pronoun",
    "WP": "pronoun", "DT": "determiner", "PD": "determiner", "WD": "determiner", "IN": "preposition",
    "TO": "preposition", "RP": "preposition", "CC": "conjunction",
}  # fmt: skip
"""By the first two letters of a Penn Treebank tag; missing ones (numerals, foreign words) have no class."""
PARTS_OF_SPEECH = tuple(dict.fromkeys(_TAGS.values()))


@door
def tagged_words(corpus: TokenCorpus) -> pd.DataFrame:
    """Every whole word of a text and its part of speech: sequence, position, word, tag.

    `position` is that of the word's last token, and `tag` one of `PARTS_OF_SPEECH`. The tagger makes errors (about one
    word in twenty), and knows only English; it also sees the context after a word.

    Raises:
        InputError: the text has no tokenizer, or TextBlob is not installed.
    """
    try:
        from textblob.en import tag
    except ImportError:
        raise InputError("Parts of speech need TextBlob: pip install textblob.") from None
    if corpus.tokenizer is None:
        raise InputError("This text has no tokenizer to read its words by; load it with load_corpus.")
    rows: list[tuple[int, int, str, str]] = []
    for sequence, (tokens, length, words) in enumerate(
        zip(corpus.tokens.tolist(), corpus.lengths.tolist(), corpus.words, strict=True)
    ):
        pieces = _pieces(corpus, tokens[:length], words[:length])
        tags = [str(kind) for _, kind in tag(" ".join(text for text, _ in pieces), tokenize=False)]
        if len(tags) != len(pieces):  # the tagger takes some character for a space
            continue
        rows += [
            (sequence, position, text.lower(), _TAGS[kind[:2]])
            for (text, position), kind in zip(pieces, tags, strict=True)
            if position >= 0 and kind[:2] in _TAGS
        ]
    table = pd.DataFrame(rows, columns=["sequence", "position", "word", "tag"])
    return table.astype({"sequence": int, "position": int})


def _pieces(corpus: TokenCorpus, tokens: list[int], words: torch.Tensor) -> list[tuple[str, int]]:
    """Words with the position of their last token, and the text between them with -1; none contains a space."""
    ends = {start: stop for start, stop, _ in runs(words.numpy())}
    pieces: list[tuple[str, int]] = []
    position = int(corpus.prepend_bos)
    while position < len(tokens):
        stop = ends.get(position, position + 1)
        parts = corpus.tokenizer.decode(tokens[position:stop]).split()
        if position in ends and len(parts) == 1:
            pieces.append((parts[0], stop - 1))
        else:
            pieces += [(part, -1) for part in parts]
        position = stop
    return pieces
