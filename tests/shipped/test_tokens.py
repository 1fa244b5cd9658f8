"""The tokenizer: every text survives, offsets point at it, words split into syllables."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tiny_icl import tokens
from mechicl.shipped import lexicon as lex

TOKENIZER = tokens.fast_tokenizer()


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives(text: str) -> None:
    encoded = TOKENIZER(text, return_offsets_mapping=True)
    assert TOKENIZER.decode(encoded.input_ids, skip_special_tokens=False) == text
    covered = "".join(text[start:end] for start, end in dict.fromkeys(encoded.offset_mapping))
    assert covered == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*lex.FUNCTION_WORDS, *lex.LABEL_WORDS, *lex.lexicon().spelled(0), "\n", "Review:"])))
def test_texts_of_the_language_survive(pieces: list[str]) -> None:
    assert TOKENIZER.decode(TOKENIZER("".join(pieces)).input_ids) == "".join(pieces)


def test_content_words_are_their_syllables() -> None:
    for topic in lex.lexicon().words:
        for word in topic:
            assert TOKENIZER("".join((" ", *word))).input_ids == tokens.word_ids(word)


def test_words_of_the_language_are_one_token() -> None:
    for word in (*lex.LABEL_WORDS, *lex.FUNCTION_WORDS):
        assert TOKENIZER(word).input_ids == tokens.ids(word)


def test_nothing_is_added() -> None:
    assert TOKENIZER("").input_ids == []
    assert TOKENIZER(tokens.BOS + " the").input_ids == tokens.ids(tokens.BOS, " the")
