"""Transplants: exact by causality, and to first order, against plain loops of `run_with_hooks` on every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from mechicl.engines.attribution import attributed
from mechicl.engines.patching import SITES, Transplant, transplanted
from mechicl.errors import InputError
from mechicl.metrics.objective import Objective
from mechicl.models import recompute
from mechicl.prompts import Prompt
from tests import tiny
from tests.studies.extensions import plain

pytestmark = pytest.mark.filterwarnings("ignore:The tokenizer spells")
PARTS = {
    "resid_post": ["hook_resid_post"],
    "attn_out": ["hook_attn_out"],
    "mlp_out": ["hook_mlp_out"],
    "keys_values": ["attn.hook_k", "attn.hook_v"],
}


def points(site: str, layers: Sequence[int]) -> list[str]:
    return [f"blocks.{layer}.{part}" for layer in layers for part in PARTS[site]]


def with_other_labels(prompt: Prompt) -> Prompt:
    tokens = list(prompt.tokens)
    for number, place in enumerate(prompt.label_positions):
        tokens[place] = 100 + 7 * number
    return replace(prompt, tokens=tuple(tokens))


def one_by_one(model: Any, base: Prompt, source: Prompt, transplants: Sequence[Transplant]) -> torch.Tensor:
    """A whole forward pass for each transplant."""
    everything = [name for site in SITES for name in points(site, range(model.cfg.n_layers))]
    states = plain.kept(model, source, everything)

    def writing(name: str, positions: Sequence[int]) -> Callable[..., torch.Tensor]:
        def write(value: torch.Tensor, hook: Any) -> torch.Tensor:
            edited = value.clone()
            edited[:, list(positions)] = states[name][:, list(positions)]
            return edited

        return write

    found = []
    for site, layers, positions in transplants:
        hooks = [(name, writing(name, positions)) for name in points(site, layers)] if positions else []
        with torch.no_grad():
            found.append(plain.logits(model, base, hooks)[list(base.label_ids)])
    return torch.stack(found)


@pytest.mark.parametrize("family", tiny.cases)
def test_transplants_are_a_plain_loop(family: str) -> None:
    model, base = tiny.model(family), plain.prompts(2, demonstrations="per_seed")
    source, n = [with_other_labels(prompt) for prompt in base], model.cfg.n_layers
    labels = base[0].label_positions
    transplants = [Transplant("keys_values", (0,), ())]
    transplants += [Transplant(site, (1,), places) for site in SITES for places in (labels, (-1,))]
    transplants += [Transplant("resid_post", (layer,), labels[:1]) for layer in range(n)]
    transplants += [Transplant("keys_values", tuple(range(n)), labels), Transplant("mlp_out", (0, 2), (5, 6, 30))]
    ours = transplanted(model, base, source, transplants, batch_size=3)
    assert ours.shape == (2, len(transplants), 2)
    for index in range(2):
        expected = one_by_one(model, base[index], source[index], transplants)
        torch.testing.assert_close(ours[index], expected, rtol=1e-4, atol=2e-4)
    assert ((ours[:, 1:] - ours[:, :1]).abs().amax((0, 2)) > 1e-3).sum() > 5, "the control: something changes"


@pytest.mark.parametrize("family", tiny.FIVE)
def test_attribution_is_gradient_times_difference(family: str) -> None:
    model, base = tiny.model(family), plain.prompts(1)[0]
    source, kinds, n = with_other_labels(base), [base.label_positions, (1, 5, 6), (-1,)], model.cfg.n_layers
    ours = attributed(model, base, source, kinds)
    values: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., torch.Tensor]:
        def see(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value.retain_grad()
            values[name] = value
            return value  # what a Bridge shows takes part in its pass only where it is returned

        return see

    names = [name for site in SITES for name in points(site, range(n))]
    leaf = ("hook_embed", lambda value, hook: value.detach().requires_grad_())
    answers = plain.logits(model, base, [leaf, *((name, keep(name)) for name in names)])[list(base.label_ids)]
    Objective("logit_difference")(answers[None], torch.tensor([base.gold])).sum().backward()  # type: ignore[no-untyped-call]
    states = plain.kept(model, source, names)
    for place, site in enumerate(SITES):
        for layer in range(n):
            products = [(states[name] - values[name].detach()) * values[name].grad for name in points(site, [layer])]
            expected = [sum(float(x[0, list(kind)].sum()) for x in products) for kind in kinds]
            torch.testing.assert_close(ours[place, layer], torch.tensor(expected), rtol=1e-3, atol=1e-4)
    model.zero_grad()


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_attribution_is_the_same_where_layers_are_computed_again(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt's graph does not fit, so its layers run twice, the first time without gradients."""
    model, base = tiny.model(family), plain.prompts(1)[0]
    source, kinds = with_other_labels(base), [base.label_positions, (-1,)]
    expected = attributed(model, base, source, kinds)
    monkeypatch.setattr(recompute, "GRAPH_BYTES", 1)
    torch.testing.assert_close(attributed(model, base, source, kinds), expected, rtol=1e-4, atol=1e-5)


def test_a_transplant_of_the_same_changes_nothing() -> None:
    model, base = tiny.model("llama"), plain.prompts(1)[0]
    transplant = [Transplant("resid_post", (0,), ()), Transplant("resid_post", (0,), base.label_positions)]
    exact = transplanted(model, [base], [base], transplant)[0]
    torch.testing.assert_close(exact[0], exact[1], rtol=0, atol=1e-5)
    assert attributed(model, base, base, [base.label_positions]).abs().max() == 0


def test_the_model_comes_back_and_nonsense_is_refused() -> None:
    model, base = tiny.model("gpt2"), plain.prompts(2)
    one = [Transplant("resid_post", (0,), (1,))]
    before = plain.logits(model, base[0]).detach()
    transplanted(model, [base[0]], [with_other_labels(base[0])], one)
    torch.testing.assert_close(plain.logits(model, base[0]).detach(), before, rtol=0, atol=0)
    assert not [point for point in model.hook_dict.values() if point.fwd_hooks]
    with pytest.raises(InputError, match="share their demonstrations"):
        transplanted(model, base, base, one)
    for wrong in (Transplant("resid_post", (9,), (1,)), Transplant("resid_post", (0,), (10**4,))):
        with pytest.raises(InputError, match="cannot be made: sites are"):
            transplanted(model, [base[0]], [base[0]], [wrong])
    shorter = replace(base[0], tokens=base[0].tokens[:-1], target=base[0].target - 1)
    with pytest.raises(InputError, match="give prompts whose positions correspond"):
        attributed(model, base[0], shorter, [(1,)])
