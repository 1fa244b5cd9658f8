"""Batches: every prompt once, little padding, right-hand padding; digests; prompts that were stored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mechicl.errors import InputError
from mechicl.prompts import Prompt, PromptBatch, PromptSet


def stored(length: int, *anchors: int, first: int = 7, gold: int | None = 0) -> Prompt:
    return Prompt.from_positions([first, *range(1, length)], [anchors[::2], anchors[1::2]], [3, 4], gold)


@pytest.fixture
def mixed() -> PromptSet:
    return PromptSet.of(
        [stored(9, 2, 5), stored(30, 3, 4), stored(12, 1), stored(10, 2, 6), stored(11, 3, 4), stored(8)]
    )


def test_every_prompt_is_in_one_batch_with_its_index(mixed: PromptSet) -> None:
    seen = list(mixed.batches(2))
    assert sorted(i for indices, _ in seen for i in indices) == list(range(len(mixed)))
    for indices, batch in seen:
        assert 1 <= len(indices) <= 2
        assert batch.prompts == tuple(mixed[i] for i in indices)
    assert [indices for indices, _ in seen] == list(mixed.chunks(2)) == [(1, 4), (3, 0), (2,), (5,)]


def test_a_batch_holds_what_its_prompts_hold(mixed: PromptSet) -> None:
    for _, batch in mixed.batches(3):
        assert batch.tokens.shape == (len(batch), max(map(len, batch.prompts)))
        for i, prompt in enumerate(batch.prompts):
            assert batch.tokens[i, : len(prompt)].tolist() == list(prompt.tokens)
            assert not batch.tokens[i, len(prompt) :].any(), "padding is on the right"
            assert batch.lengths[i] == len(prompt)
            assert batch.target[i] == prompt.target
            assert batch.anchors[i].tolist() == list(prompt.anchors)
            assert batch.anchor_classes[i].tolist() == list(prompt.anchor_classes)
        assert batch.label_ids.tolist() == [3, 4]


def test_a_batch_moves_whole(mixed: PromptSet) -> None:
    moved = mixed[:1].batch().to("meta")
    assert moved.device == moved.anchors.device == moved.gold.device == torch.device("meta")


def test_prompts_that_cannot_share_a_batch_are_refused(mixed: PromptSet) -> None:
    with pytest.raises(InputError, match=r"0 and 1 and 2 demonstrations .* \.batches"):
        mixed.batch()
    with pytest.raises(InputError, match="at least one prompt"):
        PromptBatch.of([])
    with pytest.raises(InputError, match="at least 1"):
        next(mixed.chunks(0))
    with pytest.raises(InputError, match="differ in their classes"):
        PromptSet.of([mixed[0], replace(mixed[0], label_ids=(8, 9))])


def test_slices_and_selections_are_prompt_sets(mixed: PromptSet) -> None:
    assert isinstance(mixed[1:3], PromptSet)
    assert list(mixed[1:3]) == [mixed[1], mixed[2]]
    assert list(mixed.select([4, 0])) == [mixed[4], mixed[0]]
    assert PromptSet.of([stored(5, gold=None), stored(5, gold=1)]).gold.tolist() == [-1, 1]


def test_the_digest_follows_the_question(mixed: PromptSet) -> None:
    assert mixed.digest() == PromptSet.of(list(mixed)).digest()
    others = [stored(9, 2, 5, first=8), stored(9, 2, 6), stored(9, 5, 2), stored(9, 2, 5, gold=1)]
    digests = {PromptSet.of([prompt]).digest() for prompt in [mixed[0], *others]}
    assert len(digests) == 5
    assert mixed[:2].digest() != mixed.select([1, 0]).digest()
    json.dumps(mixed.provenance())


def test_a_stored_prompt_knows_its_anchors_in_prompt_order() -> None:
    prompt = Prompt.from_positions(range(20), [[9], [4, 12]], [3, 4], gold=1, task="sst2")
    assert prompt.anchors == (4, 9, 12)
    assert prompt.anchor_classes == (1, 0, 1)
    assert (prompt.target, prompt.query_start, prompt.w) == (19, 13, ())
    assert repr(prompt) == "Prompt(sst2: 20 tokens, p=[class 1@4, class 0@9, class 1@12], q=19, gold=class 1)"


@pytest.mark.parametrize(
    ("tokens", "positions", "gold", "message"),
    [
        ([], [[], []], None, "at least one token"),
        ([1, 2, 3], [[0]], None, "for every class"),
        ([1, 2, 3], [[2], []], None, "not before the last"),
        ([1, 2, 3], [[-1], []], None, "not before the last"),
        ([1, 2, 3], [[1], [1]], None, "given twice"),
        ([1, 2, 3], [[1], []], 2, "gold class 2"),
    ],
)
def test_stored_positions_that_cannot_be_are_refused(
    tokens: list[int], positions: list[list[int]], gold: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Prompt.from_positions(tokens, positions, [3, 4], gold)
