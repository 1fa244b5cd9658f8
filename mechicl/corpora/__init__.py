"""Running text as fixed-length token batches, with the documents and words that the tokens belong to."""

from mechicl.corpora.corpus import TokenBatch, TokenCorpus
from mechicl.corpora.loading import load_corpus
from mechicl.corpora.word_pairs import SensePair, WordPairs, load_word_pairs
from mechicl.corpora.words import WordSpan, pieces_of_ended_words, pieces_so_far, word_spans

__all__ = [
    "SensePair", "TokenBatch", "TokenCorpus", "WordPairs", "WordSpan", "load_corpus", "load_word_pairs",
    "pieces_of_ended_words", "pieces_so_far", "word_spans",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
