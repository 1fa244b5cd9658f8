"""Kept sets, and the same tokens as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mechicl.engines.compression import (
    authors_top_sets,
    compress,
    keep,
    kept_positions,
    random_pools,
    random_sets,
    without_the_rest,
)
from mechicl.engines.context import read_context
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.prompts import Prompt, PromptSet
from mechicl.tasks import Task
from tests import tiny
from tests.engines.test_prefix import close

ROWS = [
    {"text": text, "label": label}
    for text, label in [
        ("a good film", "positive"), ("bad film, bad", "negative"), ("good", "positive"), ("so bad", "negative"),
        ("film of the year", "positive"), ("the worst film", "negative"), ("fine", "positive"), ("dull", "negative"),
        ("it was good", "positive"), ("it was bad", "negative"), ("ok good", "positive"), ("no good", "negative"),
    ]
]  # fmt: skip
TASK = Task(
    "films", "Review: {text}\nSentiment:{label}", {"negative": " Negative", "positive": " Positive"},
    {"train": ROWS, "test": ROWS[:8]},
)  # fmt: skip


def films(shots: int = 1, **options: Any) -> PromptSet:
    return TASK.prompts(tiny.tokenizer(), shots=shots, seed=0, **options)


@pytest.mark.parametrize("bos", [False, True])
def test_kept_sets_divide_the_demonstrations(bos: bool) -> None:
    prompt = films(prepend_bos=bos)[0]
    label, template, both = (kept_positions(prompt, kept) for kept in ("label", "template", "label+template"))
    assert set(label) | set(template) == set(both)
    assert set(both) | set(prompt.w) == set(range(prompt.query_start))
    assert (0 in label) == bos


def test_the_same_tokens_as_text() -> None:
    prompt = films(shots=2)[0]
    short = without_the_rest(prompt)
    assert short.tokens == tuple(
        prompt.tokens[i] for i in (*kept_positions(prompt), *range(prompt.query_start, len(prompt)))
    )
    assert short.target == len(short) - 1
    assert [short.tokens[a] for a in short.anchors] == [prompt.tokens[a] for a in prompt.anchors]
    assert short.anchor_classes == prompt.anchor_classes
    asked_without = films(shots=2, demonstration_text=False)[0]
    assert short.tokens == asked_without.tokens


def test_random_sets_are_as_large_and_hold_no_anchor() -> None:
    prompt = films()[0]
    sets = random_sets(prompt, 20)
    assert {len(kept) for kept in sets} == {len(kept_positions(prompt))}
    assert not any(set(kept) & set(prompt.anchors) for kept in sets)
    assert sets == random_sets(films()[1], 20)
    assert sets != random_sets(prompt, 20, seed=1)
    assert all(set(pool) <= set(prompt.w) for pool in random_pools(prompt))
    unions = authors_top_sets(prompt, 3)
    assert set(unions[0]) <= set(unions[1]) <= set(unions[2])


@pytest.mark.parametrize("family", ["gpt2", "gptj", "neox", "neo", "llama"])
def test_a_compressed_context_answers(family: str) -> None:
    model, prompts = tiny.model(family), films()
    context = compress(model, prompts[0])
    assert context.places == kept_positions(prompts[0])
    answers = {
        mode: compress(model, prompts[0], positions=mode).ask(model, prompts).label_logits
        for mode in ("original", "zero", "packed")
    }
    assert not torch.allclose(answers["original"], answers["zero"], atol=1e-3)
    everything = keep(read_context(model, prompts[0]), range(prompts[0].query_start), "packed")
    full = run(model, prompts).label_logits
    close(everything.ask(model, prompts).label_logits, full)
    assert not torch.allclose(answers["original"], full, atol=1e-3)


def test_refusals_say_what_to_do() -> None:
    model, prompt = tiny.model("gpt2"), films()[0]
    with pytest.raises(InputError, match="it must be one of 'label', 'template'"):
        kept_positions(prompt, "text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'original', 'zero' or 'packed'"):
        compress(model, prompt, positions="far")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="build it from a task"):
        kept_positions(Prompt.from_positions(range(9), [[2], [5]], [0, 1]), "template")
    no_text = replace(
        prompt,
        demonstrations=tuple(replace(d, template=(*d.template, *d.text), text=()) for d in prompt.demonstrations),
    )
    with pytest.raises(InputError, match="no text"):
        random_pools(no_text)


def test_text_anchors_know_their_own_positions() -> None:
    """What is left of each demonstration: its span, its label word and template at their new places, and no text."""
    prompt = TASK.prompts(tiny.tokenizer(), seed=0, samples=1)[0]
    short = without_the_rest(prompt)
    assert short.string == ""
    assert len(short) == len(kept_positions(prompt)) + len(prompt) - prompt.query_start
    assert short.tokens[short.query_start :] == prompt.tokens[prompt.query_start :]
    end = 0
    for new, old in zip(short.demonstrations, prompt.demonstrations, strict=True):
        assert new.span[0] == end, "one behind the other"
        end = new.span[1]
        assert new.text == ()
        for ours, theirs in ((new.label, old.label), (new.template, old.template)):
            assert [short.tokens[p] for p in ours] == [prompt.tokens[p] for p in theirs]
            assert all(new.span[0] <= p < new.span[1] for p in ours)
        assert sorted((*new.label, *new.template)) == list(range(*new.span))
        assert new.anchor in new.label
    assert end == short.query_start
