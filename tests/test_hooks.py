"""The loop: probes and patches compose, nothing is left behind, nothing goes silently wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mechicl.errors import InputError, NumericalError
from mechicl.hooks import Hook, HookError, Patch, Probe, Watch, run
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.patches import Drop, IsolateLabels, IsolateRandom
from mechicl.probes import LabelAttention, SaliencyFlow, TopTokens
from mechicl.prompts import PromptBatch
from tests import tiny
from tests.random_prompts import random_prompts


@dataclass(frozen=True)
class Break(Patch):
    """Raises inside the forward pass."""

    site: str

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        def fail(value: Tensor, hook: Any) -> Tensor:
            raise KeyError("inside")

        return [(self.site, fail)]


@dataclass(frozen=True)
class Fill(Patch):
    """Replaces an activation by a constant."""

    site: str
    value: float

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        return [(self.site, lambda value, hook: torch.full_like(value, self.value))]


def state(model: Any) -> Any:
    weights = {name: (p.requires_grad, p._version, p.grad is None) for name, p in model.named_parameters()}
    hooks = {name: len(point._forward_hooks) + len(point._backward_hooks) for name, point in model.hook_dict.items()}
    return weights, hooks, model.training, torch.get_rng_state().tolist()


@pytest.mark.parametrize("family", tiny.families)
def test_three_probes_and_three_patches_compose(family: str) -> None:
    """One pass with everything equals passes with one probe each under the same patches."""
    model = tiny.model(family)
    prompts = random_prompts()
    probes = [SaliencyFlow(), LabelAttention(), TopTokens(4)]
    patches = [IsolateLabels([0]), Drop(1), IsolateRandom([0, 2], seed=3)]
    together = run(model, prompts, probes, patches, batch_size=3)
    for probe in probes:
        alone = run(model, prompts, [probe], patches, batch_size=5)
        torch.testing.assert_close(together[probe].quantities, alone[probe].quantities, rtol=1e-5, atol=1e-6)
        assert together[probe].shape[0] == len(prompts)
    plain = run(model, prompts)
    assert not torch.allclose(plain.label_logits, together.label_logits)


@pytest.mark.parametrize("family", tiny.families)
def test_batches_equal_single_prompts(family: str) -> None:
    model = tiny.model(family)
    prompts = random_prompts(6)
    probes = [SaliencyFlow(), LabelAttention()]
    one, many = (run(model, prompts, probes, batch_size=size) for size in (1, 6))
    torch.testing.assert_close(one.label_logits, many.label_logits, rtol=1e-5, atol=1e-5)
    for probe in probes:
        torch.testing.assert_close(one[probe].quantities, many[probe].quantities, rtol=1e-4, atol=1e-6)


def test_objectives_do_not_mix() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts()
    first, second = SaliencyFlow(), SaliencyFlow(loss=Objective("logit_difference", "predicted"))
    both = run(model, prompts, [first, second])
    for probe in (first, second):
        torch.testing.assert_close(both[probe].quantities, run(model, prompts, [probe])[probe].quantities)
    assert not torch.allclose(both[first]["S_pq"], both[second]["S_pq"])


@pytest.mark.parametrize("family", tiny.families)
def test_the_model_comes_back_unchanged(family: str) -> None:
    model, prompts = tiny.model(family), random_prompts(2)
    model.train()
    before = state(model)
    run(model, prompts, [SaliencyFlow()], [IsolateLabels([0])])
    assert state(model) == before
    for layer in range(model.cfg.n_layers):
        with pytest.raises(KeyError, match="inside"):
            run(model, prompts, [SaliencyFlow()], [Break(f"blocks.{layer}.hook_attn_out")])
        assert state(model) == before
    model.eval()


def test_hooks_by_hand_are_the_same_patch() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(1)
    patch = IsolateLabels([0, 1])
    batch = prompts.batch()
    by_hand = model.run_with_hooks(batch.tokens, fwd_hooks=patch.hooks(model, batch))
    ours = run(model, prompts, patches=[patch]).label_logits
    torch.testing.assert_close(by_hand[0, -1, batch.label_ids][None], ours, rtol=1e-5, atol=1e-5)


def test_a_users_own_hooks_survive() -> None:
    model, seen = tiny.model("gpt2"), []
    model.add_hook("blocks.0.hook_resid_post", lambda value, hook: seen.append(1))
    try:
        run(model, random_prompts(1), [TopTokens(2)])
        assert len(model.hook_dict["blocks.0.hook_resid_post"].fwd_hooks) == 1
        assert seen
    finally:
        model.reset_hooks()


def test_an_edit_that_never_happens_is_an_error() -> None:
    model = tiny.fresh("gpt2")
    model.hook_dict["never"] = HookPoint()
    with pytest.raises(HookError, match="never fired"):
        run(model, random_prompts(1), patches=[Fill("blocks.0.hook_mlp_out", 0.0), Fill("never", 0.0)])
    with pytest.raises(InputError, match="no_such"):
        run(model, random_prompts(1), patches=[Fill("blocks.0.no_such", 0.0)])


def test_nan_is_an_error_that_names_the_place() -> None:
    model = tiny.model("gpt2")
    with pytest.raises(NumericalError, match="label logits are nan"):
        run(model, random_prompts(1), patches=[Fill("blocks.1.hook_mlp_out", float("nan"))])

    @dataclass(frozen=True)
    class Overflow(Probe):
        axes = ("prompt", "layer")

        def watch(self, model: Any, batch: PromptBatch) -> Watch:
            reading = torch.zeros(len(batch.prompts), 3)
            reading[:, 2] = torch.inf
            return Watch([], lambda: reading)

    with pytest.raises(NumericalError, match=r"value of Overflow is inf at layer 2"):
        run(model, random_prompts(1), [Overflow()])


def test_memory_that_runs_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(7)
    expected = run(model, prompts, [LabelAttention()])
    sizes = []
    kind = type(hooked(model))
    forward = kind.forward

    def small(self: Any, tokens: Tensor) -> Tensor:
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return forward(self, tokens)

    monkeypatch.setattr(kind, "forward", small)
    got = run(model, prompts, [LabelAttention()], batch_size=7)
    torch.testing.assert_close(got.label_logits, expected.label_logits, rtol=1e-5, atol=1e-5)
    ours, plain = got[LabelAttention()].values, expected[LabelAttention()].values
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    assert max(s for s in sizes if s <= 2) == 2

    monkeypatch.setattr(kind, "forward", lambda self, tokens: (_ for _ in ()).throw(torch.OutOfMemoryError("x")))
    with pytest.raises(InputError, match="single prompt"):
        run(model, prompts)


def test_bad_requests_are_refused() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(2)
    for bad, sentence in (
        ({"prompts": []}, "no prompts"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"probes": [TopTokens(2), TopTokens(2)]}, "given twice"),
        ({"probes": [TopTokens(10_000)]}, "vocabulary"),
        ({"patches": [Drop(99)]}, "layers 0-"),
        ({"patches": [IsolateLabels([7])]}, "layers 0-"),
    ):
        with pytest.raises(InputError, match=sentence):
            run(model, **{"prompts": prompts, **bad})
    with pytest.raises(InputError, match="at least one layer"):
        IsolateLabels([])
