"""The tokenizer of tiny-icl: syllables and whole words of the language, and bytes for everything else.

A word of the vocabulary that stands alone (" the", " Amber", "Review") is one token. Every other word is
put together from bytes by the merges consonant + vowel and space + syllable, so content words split into
their syllables and any Unicode text survives the round trip.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from mechicl.shipped import lexicon as lex

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS = "<|bos|>"
SPACE = "Ġ"  # how byte-level tokenizers write a space
NEWLINE = "Ċ"


def whole_words() -> list[str]:
    """Words that are one token, as they stand in text: function, label and template words."""
    of_templates = {
        piece for template in lex.TEMPLATES for piece in re.findall(r" ?[A-Za-z]+", re.sub(r" ?{\w+}", "", template))
    }
    return [*lex.FUNCTION_WORDS, *lex.LABEL_WORDS, *sorted(of_templates)]


@cache
def vocabulary() -> dict[str, int]:
    """Token to id, in byte-level spelling: BOS, bytes, syllables (bare, then with a space), whole words."""
    names = [BOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [*lex.SYLLABLES, *(SPACE + syllable for syllable in lex.SYLLABLES)]
    names += [word.replace(" ", SPACE) for word in whole_words() if len(word) > 1]
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def ids(*pieces: str) -> list[int]:
    """The ids of pieces that are each one token (" ka", "lo", ":"), without running the tokenizer."""
    table = vocabulary()
    return [table[piece.replace(" ", SPACE).replace("\n", NEWLINE)] for piece in pieces]


def word_ids(word: tuple[str, ...]) -> list[int]:
    """The ids of a content word given by its syllables."""
    return ids(" " + word[0], *word[1:])


@cache
def spelled() -> dict[str, list[int]]:
    """The ids of function words, label words and content words, by how they stand in text."""
    content = {"".join((" ", *word)): word_ids(word) for topic in lex.lexicon().words for word in topic}
    return content | {word: ids(word) for word in (*lex.FUNCTION_WORDS, *lex.LABEL_WORDS)}


def build() -> Tokenizer:
    """The tokenizer, from the vocabulary alone."""
    merges = [(syllable[0], syllable[1]) for syllable in lex.SYLLABLES]
    merges += [(SPACE, syllable) for syllable in lex.SYLLABLES]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary(), merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([BOS])
    return tokenizer


def fast_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer as transformers sees it. It adds nothing by itself; BOS is also end and padding."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=build(),
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        padding_side="right",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
