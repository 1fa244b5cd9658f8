"""Isolation: what is cut, what is kept, and what cannot change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mechicl.engines.context import read_context
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.patches import (
    CutDemonstrations,
    CutRandomEdges,
    IsolateLabels,
    IsolatePositions,
    IsolateRandom,
    isolation_mask,
    random_pool,
)
from tests import tiny
from tests.engines.test_compression import films
from tests.random_prompts import random_prompts


def patterns(model: Any, prompt: Any, patch: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and patterns of one prompt under a patch."""
    seen: dict[int, torch.Tensor] = {}

    def see(layer: int) -> Any:
        return lambda value, hook: seen.__setitem__(layer, value[0])

    batch = type(prompt_set := random_prompts(1)).of([prompt]).batch() if prompt else None
    watch = [(f"blocks.{layer}.attn.hook_pattern", see(layer)) for layer in range(model.cfg.n_layers)]
    edits = patch.hooks(model, batch) if patch else []
    with torch.no_grad():
        logits = model.run_with_hooks(batch.tokens, fwd_hooks=[*edits, *watch], prepend_bos=False)[0]
    assert prompt_set
    return logits, [seen[layer] for layer in range(model.cfg.n_layers)]


def test_mask_by_hand() -> None:
    mask = isolation_mask(torch.tensor([[2, -1]]), 4)[0]
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[2, :2] = True
    assert torch.equal(mask, expected)
    assert not isolation_mask(torch.tensor([[0]]), 4).any(), "the first position has nothing before it"
    assert not isolation_mask(torch.arange(6)[None], 6)[0].all(-1).any(), "no row is left empty"


@pytest.mark.parametrize("family", tiny.families)
def test_isolated_rows_attend_to_themselves_alone(family: str) -> None:
    model = tiny.model(family)
    (prompt,) = random_prompts(1)
    plain_logits, plain = patterns(model, prompt, None)
    logits, isolated = patterns(model, prompt, IsolateLabels([1]))
    for p in prompt.anchors:
        one_hot = torch.nn.functional.one_hot(torch.tensor(p), len(prompt)).float()
        torch.testing.assert_close(isolated[1][:, p], one_hot.expand_as(isolated[1][:, p]))
    others = [i for i in range(len(prompt)) if i not in prompt.anchors]
    torch.testing.assert_close(isolated[1][:, others], plain[1][:, others], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(isolated[0], plain[0], rtol=1e-5, atol=1e-6)
    before = min(prompt.anchors)
    torch.testing.assert_close(logits[:before], plain_logits[:before], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits[before:], plain_logits[before:], atol=1e-5)


@pytest.mark.parametrize("mode", ["postsoftmax_zero", "postsoftmax_renorm"])
def test_variants_after_the_softmax(mode: Any) -> None:
    model = tiny.model("gpt2")
    (prompt,) = random_prompts(1)
    _, plain = patterns(model, prompt, None)
    _, cut = patterns(model, prompt, IsolateLabels([0], mode=mode))
    p = prompt.anchors[0]
    assert (cut[0][:, p, :p] == 0).all()
    expected = plain[0][:, p, p] if mode == "postsoftmax_zero" else torch.ones(model.cfg.n_heads)
    torch.testing.assert_close(cut[0][:, p, p], expected)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_keeping_the_edge_to_position_0(family: str) -> None:
    """By hand: the scores of position 0 and of the token itself share the softmax, so their ratio stays."""
    model = tiny.model(family)
    (prompt,) = random_prompts(1)
    _, plain = patterns(model, prompt, None)
    _, cut = patterns(model, prompt, IsolateLabels([0], mode="presoftmax_keep_0"))
    for p in prompt.anchors:
        kept = plain[0][:, p].clone()
        kept[:, 1:p] = 0
        torch.testing.assert_close(cut[0][:, p], kept / kept.sum(-1, keepdim=True))


def test_renormalising_equals_cutting_before_the_softmax() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(4)
    before, after = (
        run(model, prompts, patches=[IsolateLabels([0, 2], mode=mode)]).label_logits
        for mode in ("presoftmax", "postsoftmax_renorm")
    )
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_random_edges_are_as_many_and_none_of_a_label_words() -> None:
    prompts = random_prompts(6, longest=40)
    (mask, same), (other, _) = (list(CutRandomEdges([0, 1], seed=s).edges(prompts.batch(), (0, 1))) for s in (0, 1))
    assert torch.equal(mask, same), "the same edges in every layer"
    assert not torch.equal(mask, other)
    query, key = torch.arange(mask.shape[1])[:, None], torch.arange(mask.shape[1])
    assert not mask[:, query <= key].any(), "from a token to one before it"
    for cut, prompt in zip(mask, prompts, strict=True):
        others = len(range(prompt.query_start)) * (prompt.query_start - 1) // 2 - sum(prompt.anchors)
        assert cut.sum() == min(sum(prompt.anchors), others)
        assert not cut[list(prompt.anchors)].any()
        assert not cut[prompt.query_start :].any()


def test_controls_are_as_many_as_the_tokens_of_label_words() -> None:
    prompt = films()[0]
    one = prompt.demonstrations[0]
    longer = replace(
        one, label=(one.label[0], one.label[0] + 1), template=tuple(set(one.template) - {one.label[0] + 1})
    )
    prompt = replace(prompt, demonstrations=(longer, *prompt.demonstrations[1:]))
    n = len(prompt.label_positions)
    assert len(IsolateLabels([0], span="label").rows(prompt, 0)) == n == 1 + len(prompt.anchors)
    rows = IsolateRandom([0], span="label").rows(prompt, 0)
    assert len(rows) == n
    assert not set(rows) & set(prompt.label_positions)
    (mask,) = CutRandomEdges([0], span="label").edges(type(films()).of([prompt]).batch(), (0,))
    assert mask.sum() == sum(prompt.label_positions)
    assert not mask[0][list(prompt.label_positions)].any()


def test_given_positions() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    same = IsolatePositions([0, 1], positions={p: [p.anchors, p.anchors] for p in prompts})
    ours, labels = (run(model, prompts, patches=[patch]).label_logits for patch in (same, IsolateLabels([0, 1])))
    torch.testing.assert_close(ours, labels)
    for outside in (-1, len(prompts[0])):
        with pytest.raises(InputError, match=rf"position {outside} of a prompt"):
            run(model, prompts[:1], patches=[IsolatePositions([0], positions={prompts[0]: [(outside,)]})])
    with pytest.raises(InputError, match="every prompt"):
        run(model, prompts, patches=[IsolatePositions([0], positions={})])


def test_random_control() -> None:
    prompts = random_prompts(6)
    fixed, fresh = IsolateRandom([0, 1], seed=1), IsolateRandom([0, 1], seed=1, resample="per_layer")
    for prompt in prompts:
        rows = fixed.rows(prompt, 0)
        assert rows == fixed.rows(prompt, 1), "one draw per prompt"
        assert len(set(rows)) == len(prompt.anchors)
        assert set(rows) <= set(random_pool(prompt))
        assert not set(random_pool(prompt)) & {*prompt.anchors, prompt.target, prompt.target - 1}
    assert any(fresh.rows(p, 0) != fresh.rows(p, 1) for p in prompts)
    assert any(fixed.rows(p, 0) != IsolateRandom([0], seed=2).rows(p, 0) for p in prompts)
    with pytest.raises(InputError, match="within the demonstrations"):
        IsolateRandom([0], resample="per_seed")
    with pytest.raises(InputError, match="are needed"):
        IsolateRandom([0], pool="demo_text").rows(prompts[0], 0)


def test_demonstrations_read_apart_are_what_reading_each_alone_gives() -> None:
    """Values in every layer, of a model whose positions are relative; together they differ."""
    model, (prompt,) = tiny.model("llama"), random_prompts(1)
    apart = read_context(model, prompt, [CutDemonstrations(range(model.cfg.n_layers))])
    together = read_context(model, prompt)
    for number, one in enumerate(prompt.demonstrations):
        tokens = torch.tensor([prompt.tokens[slice(*one.span)]])
        _, cache = model.run_with_cache(tokens, prepend_bos=False)
        for layer, kept in enumerate(apart.layers):
            alone = cache[f"blocks.{layer}.attn.hook_v"]
            torch.testing.assert_close(kept.values[:, slice(*one.span)], alone, rtol=1e-4, atol=1e-5)
        last = together.layers[-1].values[:, slice(*one.span)]
        assert torch.allclose(last, alone, atol=1e-4) == (number == 0)
