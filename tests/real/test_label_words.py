"""*Label Words are Anchors* on the real model, against plain transformers.

Bounds are some five times what was measured; those of logits and probabilities are the noise of float32 on this model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import mechicl as mi
from mechicl.results import Result
from tests.real import reference
from tests.real.conftest import Real

pytestmark = pytest.mark.xdist_group("real")
N_LAYERS = 30


def stacked(column: pd.Series[Any]) -> Tensor:
    return torch.tensor(np.stack(column.to_list()))


def test_saliency_is_attention_times_its_gradient(real: Real, agree: Callable[..., None]) -> None:
    for index in (0, 3):
        ours = mi.studies.saliency_map(real.model, real.prompts[index], range(N_LAYERS))
        seen = real.passes[index]
        saliency, without_a = (seen.attention * seen.gradient).sum(1).abs(), seen.gradient.sum(1).abs()
        agree(f"saliency, prompt {index}", ours, saliency, within=1e-5, mistaken=without_a)


def test_information_flow(real: Real, agree: Callable[..., None]) -> None:
    table = mi.information_flow(real.model, real.prompts, untrained=0).table
    ours = torch.tensor(table[["S_wp", "S_pq", "S_ww"]].to_numpy()).view(len(real.prompts), N_LAYERS, 3)
    pairs = list(zip(real.passes, real.prompts, strict=True))
    theirs = torch.stack([reference.flows((s.attention * s.gradient).sum(1).abs(), prompt) for s, prompt in pairs])
    without_a = torch.stack([reference.flows(seen.gradient.sum(1).abs(), prompt) for seen, prompt in pairs])
    for place, name in enumerate(("S_wp", "S_pq", "S_ww")):
        agree(name, ours[..., place], theirs[..., place], within=5e-6, mistaken=without_a[..., place])


@pytest.fixture(scope="module")
def isolation(real: Real) -> Result:
    return mi.isolation(real.model, real.prompts, n_layers=[5], modes=["presoftmax"])


@pytest.mark.parametrize("where", ["first", "last"])
def test_isolation_and_both_loyalties(real: Real, agree: Callable[..., None], isolation: Any, where: str) -> None:
    rows = isolation.study.loyalty(isolation.table)
    rows = rows[(rows["isolated"] == "label words") & (rows["where"] == where)]
    layers = range(5) if where == "first" else range(N_LAYERS - 5, N_LAYERS)
    ids = list(real.prompts.label_ids)
    logits = []
    for prompt in real.prompts:
        with reference.isolated(real.hf, layers, prompt.anchors):
            logits.append(reference.logits_at_q(real.hf, prompt))
    cut, clean = torch.stack(logits), torch.stack([seen.logits for seen in real.passes])

    probs, untouched = (logits[:, ids].softmax(-1) for logits in (cut, clean))
    agree(f"label probabilities, {where} 5", stacked(rows["label_probs"]), probs, within=1e-5, mistaken=untouched)
    same = cut[:, ids].argmax(-1) == clean[:, ids].argmax(-1)
    assert rows["label_loyalty"].tolist() == same.double().tolist()
    for k in (5, 10):
        sets = zip(cut.topk(k).indices.tolist(), clean.topk(k).indices.tolist(), strict=True)
        theirs = torch.tensor([reference.jaccard(*pair) for pair in sets])
        agree(f"word loyalty {k}, {where} 5", stacked(rows[f"word_loyalty_{k}"]), theirs, within=1e-6,
              mistaken=torch.ones_like(theirs))  # fmt: skip


def test_attention_to_label_words(real: Real, agree: Callable[..., None]) -> None:
    table = mi.studies.deep_layers(real.model, real.prompts).table
    seen = zip(real.passes, real.prompts, strict=True)
    theirs = torch.stack([reference.label_attention(one.attention, prompt) for one, prompt in seen])
    another_layer, mean = theirs.roll(1, 1), theirs.mean(2)
    ours = stacked(table["attention_by_head"]).view(theirs.shape)
    agree("attention to label words", ours, theirs, within=2e-5, mistaken=another_layer)
    summed = stacked(table["attention"]).view(len(real.prompts), N_LAYERS, -1)
    agree("attention to label words, heads summed", summed, theirs.sum(2), within=3e-5, mistaken=mean)


def test_a_context_of_anchors_alone(real: Real, agree: Callable[..., None]) -> None:
    prompts, ids = real.prompts[:4], list(real.prompts.label_ids)
    ours = mi.engines.compress(real.model, prompts[0]).ask(real.model, prompts).label_probs
    kept = sorted(prompts[0].template_positions + prompts[0].label_positions)

    def label_probs(first: int) -> Tensor:
        found = [reference.logits_on_kept(real.hf, prompt, kept, first)[ids].softmax(-1) for prompt in prompts]
        return torch.stack(found)

    original, packed = label_probs(prompts[0].query_start), label_probs(len(kept))
    agree("label probabilities on anchors", ours, original, within=1e-5, mistaken=packed)


def test_four_steps_of_re_weighting(real: Real, agree: Callable[..., None]) -> None:
    training = real.task.auxiliary_prompts(real.model.tokenizer, per_class=2, seed=42)
    gradients: list[Tensor] = []
    fit = mi.engines.fit_reweighting(
        real.model, training, order=[range(4)], observe=lambda _, grad: gradients.append(grad)
    )
    theirs = reference.reweight(real.hf, training)
    renormalised = reference.reweight(real.hf, training[:1], renormalised=True)
    agree("losses of re-weighting", fit.losses, theirs.loss, within=5e-5, mistaken=theirs.loss.roll(1))
    agree("first gradient of beta", gradients[0], theirs.gradient[0], within=2e-6, mistaken=renormalised.gradient[0])
    # Adam divides each gradient by its own size plus 1e-8: below that, a step is made of rounding errors.
    known = (theirs.gradient.abs() > 1e-8).all(0)
    assert known.double().mean() > 0.9
    one_step_less = theirs.beta[2][known]
    agree("beta after four steps", fit.patch.beta[known], theirs.beta[3][known], within=1e-5, mistaken=one_step_less)


def test_label_words_of_shipped_tasks_are_single_tokens(real: Real) -> None:
    """The control: TREC's " Abbreviation" is several, which is why `questions` has another word."""
    for name in ("reviews", "headlines", "questions"):
        words = mi.load_task(name).label_words.values()
        assert {len(real.model.tokenizer(word)["input_ids"]) for word in words} == {1}, name
    assert len(real.model.tokenizer(" Abbreviation")["input_ids"]) > 1
