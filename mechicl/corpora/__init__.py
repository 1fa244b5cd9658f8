"""Running text as fixed-length token batches, with the documents and words that the tokens belong to."""

from mechicl.corpora.corpus import TokenBatch, TokenCorpus
from mechicl.corpora.loading import load_corpus
from mechicl.corpora.words import WordSpan, pieces_of_ended_words, pieces_so_far, word_spans

__all__ = [
    "TokenBatch",
    "TokenCorpus",
    "WordSpan",
    "load_corpus",
    "pieces_of_ended_words",
    "pieces_so_far",
    "word_spans",
]
