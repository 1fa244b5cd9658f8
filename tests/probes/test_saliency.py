"""Saliency and information flow: invariants of spec section 12."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mechicl import information_flow
from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch, run
from mechicl.metrics.objective import Objective
from mechicl.models import frozen, recompute
from mechicl.patches import IsolateLabels, ReweightAnchors
from mechicl.probes import SaliencyFlow, SaliencyMap
from mechicl.probes.saliency import edge_counts, edge_saliency, flow
from mechicl.prompts import Prompt, PromptBatch
from mechicl.studies.label_words.saliency_map import saliency_map
from tests import tiny
from tests.engines.test_prefix import close
from tests.random_prompts import random_prompts


def ones_mask_gradient(model: Any, prompt: Prompt) -> Tensor:
    """[layer head query key]: the gradient with respect to an all-ones factor on every attention weight."""
    n, layers, heads = len(prompt), model.cfg.n_layers, model.cfg.n_heads
    factors = [torch.ones(1, heads, n, n, requires_grad=True) for _ in range(layers)]
    edits = [
        (f"blocks.{layer}.attn.hook_pattern", lambda pattern, hook, factor=factor: pattern * factor)
        for layer, factor in enumerate(factors)
    ]
    with frozen(model):
        logits = model.run_with_hooks(torch.tensor([prompt.tokens]), fwd_hooks=edits, prepend_bos=False)
        loss = Objective()(logits[:, -1, list(prompt.label_ids)], torch.tensor([prompt.gold]))
        return torch.stack([g[0] for g in torch.autograd.grad(loss.sum(), factors)])


@pytest.mark.parametrize("family", tiny.families)
def test_saliency_is_the_gradient_of_a_ones_mask(family: str) -> None:
    model = tiny.model(family)
    (prompt,) = random_prompts(1)
    expected = ones_mask_gradient(model, prompt)
    layers = range(model.cfg.n_layers)
    ours = saliency_map(model, prompt, layers)
    torch.testing.assert_close(ours, expected.sum(1).abs(), rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    summed = saliency_map(model, prompt, layers, head_reduce="sum_of_abs")
    assert (ours <= summed + 1e-6 * summed.max()).all()


def test_the_three_sets_of_edges_are_all_edges() -> None:
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(3, 12, 12, generator=generator).tril()
    anchors, target = torch.tensor([[2, 5], [1, 7], [3, 4]]), torch.tensor([11, 9, 11])
    saliency[1, 10:] = 0  # rows after q, as the backward pass leaves them
    counts = torch.stack(edge_counts(anchors, target), -1)
    assert (counts.sum(-1) == target * (target + 1) // 2).all()
    sums = (flow(saliency, anchors, target) * counts).sum(-1)
    torch.testing.assert_close(sums, saliency.tril(-1).sum((1, 2)))


def test_flow_by_its_definition() -> None:
    """Eq. 2-4 written as loops."""
    generator = torch.Generator().manual_seed(1)
    saliency = torch.rand(1, 8, 8, generator=generator)
    p, q = [2, 4], 7
    wp = [saliency[0, i, j] for i in p for j in range(i)]
    pq = [saliency[0, q, i] for i in p]
    ww = [saliency[0, i, j] for i in range(q + 1) for j in range(i) if i not in p and not (i == q and j in p)]
    expected = torch.stack([torch.stack(edges).mean() for edges in (wp, pq, ww)])
    torch.testing.assert_close(flow(saliency, torch.tensor([p]), torch.tensor([q]))[0], expected)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_flow_is_the_map_reduced(family: str) -> None:
    model = tiny.model(family)
    (prompt,) = random_prompts(1, shots=2)
    maps = saliency_map(model, prompt, range(model.cfg.n_layers))
    anchors, target = torch.tensor([prompt.anchors]), torch.tensor([prompt.target])
    expected = torch.stack([flow(layer[None], anchors, target)[0] for layer in maps])
    probe = SaliencyFlow()
    ours = run(model, [prompt], [probe])[probe].quantities.values()
    torch.testing.assert_close(torch.stack([flow[0] for flow in ours], -1), expected)


@dataclass(frozen=True)
class Firings(Probe):
    """How often each layer's pattern is seen, with gradients: forward-only probes are not to notice recomputation."""

    axes = ("prompt", "layer")

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        seen = torch.zeros(len(batch), model.sizes.n_layers)

        def at(layer: int) -> Any:
            def see(pattern: Tensor, hook: Any) -> None:
                seen[:, layer] += 1

            return see

        return Watch([(f"blocks.{i}.attn.hook_pattern", at(i)) for i in range(model.sizes.n_layers)], lambda: seen)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "neox", "neo", "llama", "gemma2"])
def test_recomputed_blocks_give_the_same_flow(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny.model(family), random_prompts(3)
    probes = [SaliencyFlow(), SaliencyMap((1,)), Firings()]
    one = prompts[:1]
    patches = [IsolateLabels((0,)), ReweightAnchors(torch.full((1, 1, 2), 0.5))]
    for few in (prompts, one):
        chosen = probes if few is one else [probes[0], probes[2]]
        monkeypatch.setattr(recompute, "GRAPH_BYTES", 2**30)
        expected = run(model, few, chosen, patches)
        monkeypatch.setattr(recompute, "GRAPH_BYTES", 1)
        found = run(model, few, chosen, patches)
        close(found.label_logits, expected.label_logits)
        for probe in chosen:
            for name, values in expected[probe].quantities.items():
                close(found[probe][name], values)
    assert (found[probes[2]].values == 1).all()
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_nothing_reaches_q_from_label_rows_of_the_last_layer() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(4)
    probe = SaliencyFlow()
    reading = run(model, prompts, [probe])[probe]
    assert (reading["S_wp"][:, -1] == 0).all()
    assert (reading["S_pq"][:, -1] > 0).all()


@pytest.mark.parametrize("protocol", ["paper", "corrected"])
def test_shares_sum_to_one_in_every_layer(protocol: Any) -> None:
    result = information_flow(tiny.model("gpt2"), random_prompts(6), protocol=protocol)
    summary = result.summary()
    sums = summary.groupby("layer")["mean"].sum()
    assert sums.to_numpy() == pytest.approx(1.0)
    assert (summary["low"] <= summary["mean"] + 1e-9).all()
    assert (summary["mean"] <= summary["high"] + 1e-9).all()


def test_text_alone_leaves_out_position_0_and_other_label_words() -> None:
    saliency, anchors, q = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0)), [3, 6, 8], 11
    kept = [(p, key) for p in anchors for key in range(1, p) if key not in anchors]
    found = flow(saliency, torch.tensor([anchors]), torch.tensor([q]), text_only=True)[0]
    assert found[0].item() == pytest.approx(sum(saliency[0, p, key].item() for p, key in kept) / len(kept))
    torch.testing.assert_close(found[1:], flow(saliency, torch.tensor([anchors]), torch.tensor([q]))[0, 1:])


def test_head_reductions() -> None:
    pattern, gradient = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert (edge_saliency(pattern, gradient) <= edge_saliency(pattern, gradient, "sum_of_abs") + 1e-6).all()
    single = pattern[:, :1], gradient[:, :1]
    torch.testing.assert_close(edge_saliency(*single), edge_saliency(*single, "sum_of_abs"))


def test_objectives() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    gold = torch.tensor([0])
    assert Objective()(logits, gold).item() == pytest.approx(-logits.log_softmax(-1)[0, 0].item())
    assert Objective("logit_difference")(logits, gold).item() == pytest.approx(2.5 - 1.0)
    assert Objective("logit_difference", "predicted")(logits, gold).item() == pytest.approx(1.5 - 3.0)
    with pytest.raises(InputError, match="no gold label"):
        Objective()(logits, torch.tensor([-1]))
    with pytest.raises(InputError, match="at least two"):
        Objective()(logits[:, :1], gold)


def test_probes_are_values() -> None:
    assert SaliencyFlow() == SaliencyFlow()
    assert SaliencyMap((1,)) != SaliencyMap((2,))
