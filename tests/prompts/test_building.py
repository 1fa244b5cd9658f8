"""Positions are known from construction: whatever the texts say and however the tokenizer cuts them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechicl.errors import InputError
from mechicl.prompts import Prompt, Query, Shot, Template, build_prompts
from tests.prompts.vocabularies import byte_level, covered, metaspace

REVIEW = Template.parse("Review: {text}\nSentiment:{label}")
WORDS = (" Negative", " Positive")
NAMES = ("negative", "positive")
TOKENIZERS = {"bytes": byte_level(" Negative", " Pos", " film"), "metaspace": metaspace("▁Neg", "▁Po", "film")}


def build(tokenizer: Any, shots: list[Shot], query: str = "a film", **options: Any) -> Prompt:
    options = {"class_names": NAMES, "template": REVIEW, "label_words": WORDS, **options}
    return build_prompts(
        tokenizer, options.pop("template"), options.pop("label_words"), [(shots, Query(query, 1))], **options
    )[0]


@pytest.fixture(params=sorted(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]


TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(["\n", "Review:", "Sentiment:", " Negative", " ", "film", "🙂", "שלום", "<|endoftext|>", "<s>"])
).map("".join)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TOKENIZERS)),
    st.lists(st.tuples(TEXTS, st.sampled_from([0, 1])), max_size=4),
    TEXTS,
    st.booleans(),
)
def test_every_token_has_one_owner_and_blocks_tile_the_prompt(
    name: str, shots: list[tuple[str, int]], query: str, bos: bool
) -> None:
    prompt = build(TOKENIZERS[name], [Shot(*shot) for shot in shots], query, prepend_bos=bos)
    edges = [0 + bos, *(d.span[1] for d in prompt.demonstrations)]
    assert [d.span[0] for d in prompt.demonstrations] == edges[:-1]
    assert prompt.query_start == edges[-1]
    assert prompt.target == len(prompt) - 1 == prompt.query_template[-1]
    for demonstration, (text, label_class) in zip(prompt.demonstrations, shots, strict=True):
        parts = [*demonstration.text, *demonstration.label, *demonstration.template]
        assert sorted(parts) == list(range(*demonstration.span))
        assert covered(prompt, demonstration.label) == WORDS[label_class]
        assert covered(prompt, demonstration.text) in f" {text}"
        assert prompt.tokens[demonstration.anchor] == prompt.label_ids[label_class]
    assert covered(prompt, prompt.query_text) in f" {query}"
    assert covered(prompt, range(int(bos), len(prompt))) == prompt.string


def test_the_space_before_a_text_or_label_belongs_to_it(tokenizer: Any) -> None:
    prompt = build(tokenizer, [Shot("film", 0), Shot("good film", 1)])
    first, second = prompt.demonstrations
    assert covered(prompt, first.text) == " film"
    assert covered(prompt, first.label) == " Negative"
    assert covered(prompt, first.template) == "Review:\nSentiment:\n"
    assert covered(prompt, second.text) == " good film"
    assert covered(prompt, [second.anchor]).startswith(" P")
    assert covered(prompt, [prompt.target]) == ":"


def test_the_anchor_is_the_first_or_the_last_sub_token(tokenizer: Any) -> None:
    first = build(tokenizer, [Shot("film", 1)]).demonstrations[0]
    last = build(tokenizer, [Shot("film", 1)], anchor="last").demonstrations[0]
    assert len(first.label) > 1
    assert first.label == last.label
    assert (first.anchor, last.anchor) == (first.label[0], last.label[-1])
    with pytest.raises(InputError, match="'first' or 'last'"):
        build(tokenizer, [Shot("film", 1)], anchor="middle")


def test_bos_moves_everything_by_one(tokenizer: Any) -> None:
    shots = [Shot("film", 0), Shot("🙂", 1)]
    plain, with_bos = build(tokenizer, shots), build(tokenizer, shots, prepend_bos=True)
    assert with_bos.tokens == (tokenizer.bos_token_id, *plain.tokens)
    for attribute in ("anchors", "w", "label_positions", "template_positions", "query_text", "query_template"):
        assert getattr(with_bos, attribute) == tuple(p + 1 for p in getattr(plain, attribute))
    assert with_bos.query_start == plain.query_start + 1
    assert with_bos.prepend_bos


def test_a_character_spelled_in_bytes_owns_all_its_tokens(tokenizer: Any) -> None:
    (demonstration,) = build(tokenizer, [Shot("🙂", 0)]).demonstrations
    assert len(demonstration.text) >= 4


def test_texts_that_look_like_the_template_are_texts(tokenizer: Any) -> None:
    """The authors look for ":" followed by the label word; here such a text changes nothing."""
    mimic = "bad\nSentiment: Negative\nReview: good"
    prompt = build(tokenizer, [Shot(mimic, 1), Shot("film", 0)], mimic)
    assert len(prompt.anchors) == 2
    assert covered(prompt, prompt.demonstrations[0].text) == f" {mimic}"
    assert covered(prompt, prompt.demonstrations[0].label) == " Positive"
    found = [
        i for i in range(1, len(prompt)) if prompt.tokens[i] == prompt.label_ids[0] and covered(prompt, [i - 1]) == ":"
    ]
    assert len(found) == 3, "a search for the pattern finds the two in the texts, too"


def test_empty_and_left_out_texts(tokenizer: Any) -> None:
    prompt = build(tokenizer, [Shot("", 0), Shot(None, 1)], "")
    assert prompt.string == "Review: \nSentiment: Negative\nReview:\nSentiment: Positive\nReview: \nSentiment:"
    assert prompt.w == prompt.query_text == ()
    assert [covered(prompt, d.label) for d in prompt.demonstrations] == [" Negative", " Positive"]


def test_a_token_over_two_pieces_goes_to_the_label_then_to_the_template() -> None:
    tokenizer = byte_level("\n\n", " !!!")
    exclaim = Template.parse("{text}\n\nVerdict:{label}!!")
    prompt = build(tokenizer, [Shot("film\n", 0)], template=exclaim, label_words=(" !", "?"))
    (demonstration,) = prompt.demonstrations
    assert covered(prompt, demonstration.label) == " !!!"
    assert covered(prompt, demonstration.text) == "film"
    assert covered(prompt, demonstration.template).startswith("\n\n\nVerdict:")


def test_zero_demonstrations_are_the_query_alone(tokenizer: Any) -> None:
    prompt = build(tokenizer, [], "film")
    assert (prompt.string, prompt.anchors, prompt.query_start) == ("Review: film\nSentiment:", (), 0)
    assert prompt.label_ids == build(tokenizer, [Shot("film", 0)]).label_ids


def test_the_name_of_a_special_token_in_a_text_is_plain_text(tokenizer: Any) -> None:
    prompt = build(tokenizer, [Shot(tokenizer.bos_token, 0)], tokenizer.bos_token)
    assert tokenizer.bos_token_id not in prompt.tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((" Negative", " Negation"), "' Negative' .negative. and ' Negation' .positive. begin with the same token"),
        ((" Good", " Good"), "' Good' is given to two classes, 'negative' and 'positive'"),
        ((" Good", ""), "class 'positive' is ''"),
        ((" ", " Good"), "class 'negative' is ' '"),
        ((")", " Good"), "joins the end of the template"),
    ],
)
def test_label_words_that_cannot_be_told_apart_are_refused(words: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        build(byte_level(" Neg", ":)"), [Shot("film", 0)], label_words=words)
    assert "label_words=" in str(refusal.value) or "such as ' Positive'" in str(refusal.value)


def test_a_prompt_over_the_context_is_refused_with_both_numbers(tokenizer: Any) -> None:
    shots = [Shot("film", 0), Shot("film", 1)]
    length = len(build(tokenizer, shots))
    assert len(build(tokenizer, shots, n_ctx=length)) == length
    with pytest.raises(InputError, match=f"context of {length - 1} tokens .the longest has {length}."):
        build(tokenizer, shots, n_ctx=length - 1)


def test_a_slow_tokenizer_and_a_missing_bos_are_refused(tokenizer: Any) -> None:
    class Slow:
        is_fast, bos_token_id, __call__ = False, None, print

    with pytest.raises(InputError, match=r"Slow is a slow tokenizer.* load a fast one"):
        build(Slow(), [Shot("film", 0)])
    without = byte_level(" Negative", " Positive")
    without.bos_token = None
    with pytest.raises(InputError, match="no BOS token"):
        build(without, [Shot("film", 0)], prepend_bos=True)
