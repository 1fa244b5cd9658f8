"""How much a study does, counted before it begins: from the material's lengths and the model's sizes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechicl.corpora import TokenCorpus, WordPairs
from mechicl.engines.cost import forward_flops
from mechicl.engines.prefix import shared_demonstrations
from mechicl.models.seam import Sizes
from mechicl.models.tokenizers import encode_texts
from mechicl.prompts import PromptSet
from mechicl.tasks.benchmarks import Benchmarks

_TOKENIZED = 32
"""Requests of a benchmark that are tokenized to see how many characters a token has; all are when they are asked."""


@dataclass(frozen=True)
class Work:
    """What a study does with its material, in passes of all of it through all blocks."""

    passes: float = 0.0
    """Whole passes; a gradient of activations makes two more of one."""
    shared: float = 0.0
    """Passes in which demonstrations that prompts have in common are read once."""
    asked: float = 0.0
    """Passes of the queries alone, on keys and values that are there already."""
    logits: float = 0.0
    """Rows of logits over the whole vocabulary, for every token."""
    readings: int = 1
    """How often the probabilities of a row are gone over."""
    directions: int = 0
    """Vectors that are read through the whole vocabulary, whatever the material."""
    further: tuple[tuple[int, int], ...] = ()
    """Sequences beside the material, or cut out of it: how many, and how long each."""
    gradients: bool = False
    streams: int = 1
    """Residuals of a batch that are alive at the same time."""
    beside: str = ""
    """What takes time and is not counted, in words."""


@dataclass(frozen=True)
class Extent:
    """The material's sequences, by length and by the length of their shared demonstrations."""

    sequences: Counter[tuple[int, int]]
    """How many sequences have these (tokens, tokens of demonstrations)."""
    contexts: Counter[int]
    """How many demonstrations, each shared by one prompt or more, have so many tokens."""

    @classmethod
    def of(cls, parts: Sequence[Any], tokenizer: Any) -> Extent:
        """The extent of prompt sets, texts, pairs and benchmarks; nothing for None."""
        sequences, contexts = Counter[tuple[int, int]](), Counter[int]()
        for part in parts:
            if isinstance(part, PromptSet):
                sequences.update((len(prompt), prompt.query_start) for prompt in part)
                contexts.update(part[group[0]].query_start for group in shared_demonstrations(part))
            elif isinstance(part, Benchmarks):
                sequences.update((length, 0) for length in _request_lengths(part, tokenizer))
            elif isinstance(part, TokenCorpus | WordPairs):
                corpus = part if isinstance(part, TokenCorpus) else part.sentences
                sequences.update((length, 0) for length in corpus.lengths.tolist())
        return cls(sequences, contexts)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence; 0 where there is none."""
        return max((length for length, _ in self.sequences), default=0)

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(length * n for (length, _), n in self.sequences.items())

    def pieces(self, work: Work, sizes: Sizes) -> list[tuple[int, float]]:
        """Operations in the blocks, by the length of the sequences that they are done on: (tokens, operations)."""
        whole = sum(n * forward_flops(sizes, length, 0, 0) for (length, _), n in self.sequences.items())
        read = sum(n * forward_flops(sizes, length, 0, 0) for length, n in self.contexts.items())
        asked = sum(n * forward_flops(sizes, length - start, start, 0) for (length, start), n in self.sequences.items())
        query = max((length - start for length, start in self.sequences), default=0)
        found = [
            (self.longest, work.passes * whole),
            (max(self.contexts, default=0), work.shared * read),
            (query, (work.shared + work.asked) * asked),
            *((length, float(n * forward_flops(sizes, length, 0, 0))) for n, length in work.further),
        ]
        return [(length, flops) for length, flops in found if length and flops]

    def flops(self, work: Work, sizes: Sizes) -> float:
        """Operations in the blocks, without logits."""
        return sum(flops for _, flops in self.pieces(work, sizes))

    def longest_of(self, work: Work) -> int:
        """Tokens of the longest sequence, the further ones included."""
        return max(self.longest, 1, *(length for _, length in work.further))

    def rows(self, work: Work) -> float:
        """Rows of logits over the whole vocabulary."""
        return work.logits * self.tokens + work.directions


def companions(material: Any, name: str) -> tuple[int, int]:
    """How many prompts go with the prompt sets under this name, and how long the longest is."""
    sets = [material] if isinstance(material, PromptSet) else material
    found = [prompt for one in sets for prompt in one.companions.get(name, ())]
    return len(found), max(map(len, found), default=0)


def _request_lengths(benchmarks: Benchmarks, tokenizer: Any) -> list[int]:
    """Tokens of every request, by its characters."""
    texts = ["".join(request) for request in benchmarks.requests]
    sample = texts[:_TOKENIZED]
    tokens = sum(map(len, encode_texts(tokenizer, sample)["input_ids"])) if sample else 0
    rate = tokens / max(1, sum(map(len, sample)))
    return [max(1, round(rate * len(text))) for text in texts]
