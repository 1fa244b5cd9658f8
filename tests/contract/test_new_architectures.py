"""Architectures that Bridges brought (Gemma 3, OLMo 2, SmolLM3, Qwen3-MoE, GPT-OSS): studies against plain Hugging Face.

Their blocks hold what older ones lack: norms of queries and keys and after sublayers, layers without rotations, local
layers with a base of their own, experts, and attention sinks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

import mechicl as mi
from mechicl.engines.compression import kept_positions
from mechicl.models import blockwise
from tests import tiny
from tests.contract import catalogue
from tests.real import reference

pytestmark = pytest.mark.skipif(
    tiny.HOOKED and not os.environ.get("MECHICL_MATRIX"),
    reason="here with MECHICL_MATRIX alone; `make test-tl4` runs it",
)
WITHIN, CONTROL = 1e-5, 1e-3
"""Of a quantity's largest value: what may differ, and by how much a deliberate error does at least."""


@dataclass(frozen=True)
class Pair:
    """The plain model, with eager attention, and the Bridge."""

    hf: Any
    model: Any


@pytest.fixture(scope="module", params=tiny.new)
def pair(request: pytest.FixtureRequest) -> Pair:
    found = Pair(tiny.huggingface(request.param), tiny.model(f"{request.param}/bridge"))
    assert blockwise(found.model, "This").unsupported_reason is None
    return found


def agree(ours: Any, theirs: Tensor, mistaken: Tensor) -> None:
    ours, theirs, mistaken = (torch.as_tensor(values, dtype=torch.float64) for values in (ours, theirs, mistaken))
    assert ours.shape == theirs.shape
    off, error = (float((ours - values).abs().max() / theirs.abs().max()) for values in (theirs, mistaken))
    print(f"off by {off:.1e}, the control by {error:.1e}")
    assert off <= WITHIN
    assert error > CONTROL


@contextmanager
def hidden(hf: Any, queries: range, keys: list[int]) -> Iterator[None]:
    """These queries do not see these keys, in every layer."""

    def hide(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"].clone()
        mask[..., queries.start : queries.stop, keys] = -inf
        return args, {**kwargs, "attention_mask": mask}

    handles = [layer.self_attn.register_forward_pre_hook(hide, with_kwargs=True) for layer in hf.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def label_probs(hf: Any, prompts: Any) -> Tensor:
    logits = torch.stack([reference.logits_at_q(hf, prompt) for prompt in prompts])
    return logits[:, list(prompts.label_ids)].softmax(-1)


def test_information_flow(pair: Pair) -> None:
    prompts = catalogue.prompts()
    table = mi.information_flow(pair.model, prompts, untrained=0).table
    ours = torch.tensor(table[["S_wp", "S_pq", "S_ww"]].to_numpy()).view(len(prompts), tiny.N_LAYERS, 3)
    passes = [reference.saliency_pass(pair.hf, prompt) for prompt in prompts]
    theirs, without_a = (
        torch.stack([reference.flows(saliency.sum(1).abs(), p) for saliency, p in zip(of_all, prompts, strict=True)])
        for of_all in ([one.attention * one.gradient for one in passes], [one.gradient for one in passes])
    )
    for place in range(3):
        agree(ours[..., place], theirs[..., place], without_a[..., place])


def test_isolation(pair: Pair) -> None:
    prompts = catalogue.prompts()
    table = mi.isolation(pair.model, prompts, n_layers=[1]).table
    rows = table[(table["isolated"] == "label words") & (table["where"] == "first")]
    theirs = []
    for prompt in prompts:
        with reference.isolated(pair.hf, [0], prompt.anchors):
            theirs.append(reference.logits_at_q(pair.hf, prompt)[list(prompts.label_ids)].softmax(-1))
    agree(torch.tensor(rows["label_probs"].to_list()), torch.stack(theirs), label_probs(pair.hf, prompts))


def test_compression(pair: Pair) -> None:
    """A query on the keys of label words and template alone is a query from which the others are hidden."""
    prompts = catalogue.prompts()
    first = prompts[0]
    ours = mi.engines.compress(pair.model, first).ask(pair.model, prompts).label_probs
    dropped = sorted({*range(first.query_start)} - {*kept_positions(first)})
    with hidden(pair.hf, range(first.query_start, 10**6), dropped):
        theirs = label_probs(pair.hf, prompts)
    agree(ours, theirs, label_probs(pair.hf, prompts))


def texts() -> list[list[int]]:
    corpus = catalogue.text()
    return [tokens[:length].tolist() for tokens, length in zip(corpus.tokens, corpus.lengths, strict=True)]


def test_ablated_layers(pair: Pair) -> None:
    corpus, layers = catalogue.text(), range(tiny.N_LAYERS)
    lesions = [mi.patches.Drop(layer) for layer in layers]
    ours = mi.engines.lesion_sweep(pair.model, corpus.tokens, lesions, lengths=corpus.lengths, top_k=0).kl
    for text, tokens in enumerate(texts()):
        clean = reference.text_pass(pair.hf, tokens).logits
        changed = [reference.logits_without(pair.hf, tokens, layer, slice(None)) for layer in layers]
        theirs = torch.stack([reference.kl(clean, logits) for logits in changed])
        agree(ours[:, text, : len(tokens)], theirs, theirs.roll(1, 0))


def test_the_lens(pair: Pair) -> None:
    probe = mi.probes.LogitLens(only=("entropy", "kl", "kl_reverse"))
    ours = mi.run(pair.model, catalogue.text(), [probe], progress=None)[probe]
    for text, tokens in enumerate(texts()):
        seen = reference.text_pass(pair.hf, tokens)
        theirs, unnormed = (
            torch.stack(
                [
                    reference.lens_measures(reference.lens(pair.hf, resid[1:], normed), seen.logits[1:]).mean(1)
                    for resid in seen.residual
                ]
            )
            for normed in (True, False)
        )
        for place, values in enumerate(ours.quantities.values()):
            agree(values[text], theirs[:, place], unnormed[:, place])
