"""Re-weighting: no change at zero, the saliency as its gradient, and a patch like any other."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from mechicl.engines.compression import compress
from mechicl.engines.last_token import last_tokens
from mechicl.engines.prefix import run_shared
from mechicl.engines.reweighting import Variant, authors_orders, fit_reweighting, fit_together
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import frozen, hooked
from mechicl.patches import IsolateLabels, ReweightAnchors
from mechicl.prompts import Prompt, PromptSet
from tests import tiny
from tests.engines.test_compression import TASK, films
from tests.engines.test_prefix import close, shared_prompts

FIVE = ("gpt2", "gptj", "neox", "neo", "llama")
"""The architectures of the papers, and grouped keys."""


def random_beta(model: Any, n_classes: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(model.cfg.n_layers, model.cfg.n_heads, n_classes, generator=generator)


@pytest.mark.parametrize("family", tiny.families)
@pytest.mark.parametrize("placement", ["postsoftmax", "presoftmax"])
def test_it_is_the_same_in_every_engine(family: str, placement: Any) -> None:
    model, prompts = tiny.model(family), shared_prompts()
    patch = ReweightAnchors(random_beta(model), placement)
    whole = run(model, prompts, patches=[patch]).label_logits
    close(run_shared(model, prompts, patches=[patch]).label_logits, whole)
    close(torch.cat([last.label_logits(model, [patch]) for last in last_tokens(model, prompts)]), whole)
    nothing = run(model, prompts, patches=[ReweightAnchors(torch.zeros(1, 1, 2), placement)]).label_logits
    close(nothing, run(model, prompts).label_logits)
    assert not torch.allclose(whole, nothing, atol=1e-3)


def test_it_multiplies_the_row_of_q_alone() -> None:
    model, prompt = tiny.model("gpt2"), shared_prompts()[0]
    beta = random_beta(model)
    batch = PromptSet.of([prompt]).batch()
    pattern = torch.rand(1, 4, len(prompt), len(prompt))
    _, edit = ReweightAnchors(beta).hooks(model, batch)[1]
    expected = pattern.clone()
    for anchor, c in zip(prompt.anchors, prompt.anchor_classes, strict=True):
        expected[0, :, prompt.target, anchor] *= beta[1, :, c].exp()
    torch.testing.assert_close(edit(pattern, hook=None), expected)


@pytest.mark.parametrize("family", FIVE)
def test_its_gradient_at_zero_is_the_saliency_of_the_edge(family: str) -> None:
    """d loss / d beta = A * dL/dA at (q, p): re-weighting learns by what information flow measures."""
    model, prompt = tiny.fresh(family).double(), shared_prompts()[0]
    gold = torch.tensor([prompt.gold])
    beta = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, 2, dtype=torch.float64, requires_grad=True)
    (last,) = last_tokens(model, [prompt])
    edges: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(layer: int) -> Any:
        def see(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
            leaf = pattern.detach().requires_grad_() if layer == 0 else pattern
            leaf.retain_grad()
            edges[layer] = (leaf, leaf)
            return leaf

        return see

    net = hooked(model)
    with frozen(model):
        loss = torch.nn.functional.cross_entropy(last.label_logits(model, [ReweightAnchors(beta)]), gold)
        loss.backward()
        with net.hooks([(f"blocks.{i}.attn.hook_pattern", watch(i)) for i in range(model.cfg.n_layers)]):
            final = net.forward(torch.tensor([prompt.tokens]))[:, -1]
            label_logits = net.lens(final, torch.tensor(prompt.label_ids))
            torch.nn.functional.cross_entropy(label_logits, gold).backward()
    for layer, (pattern, _) in edges.items():
        saliency = (pattern * pattern.grad)[0, :, prompt.target]
        for anchor, c in zip(prompt.anchors, prompt.anchor_classes, strict=True):
            torch.testing.assert_close(beta.grad[layer, :, c], saliency[:, anchor], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("shared", [(), ("heads",), ("layers",)])
def test_learning_lowers_the_loss_and_leaves_the_model_alone(shared: Any) -> None:
    model = tiny.fresh("gpt2").requires_grad_(True)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    prompts = shared_prompts()
    fit = fit_reweighting(model, prompts, lr=0.1, epochs=20, shared=shared)
    assert fit.losses[-len(prompts) :].mean() < fit.losses[: len(prompts)].mean() - 0.05
    assert list(fit.patch.beta.shape) == [1 if "layers" in shared else 3, 1 if "heads" in shared else 4, 2]
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(fit.order) == 20
    assert fit.order == tuple(map(tuple, authors_orders(len(prompts), 20, 42)))


@pytest.mark.parametrize("family", FIVE)
@pytest.mark.parametrize("placement", ["postsoftmax", "presoftmax"])
def test_training_on_the_last_token_is_training_through_whole_prompts(family: str, placement: Any) -> None:
    """Adam for 18 steps against TransformerLens alone: whole prompts, a plain backward pass, nothing kept.

    In double precision, since Adam's first steps have one size whatever the gradient: where it is near zero, rounding
    decides their direction.
    """
    model, prompts = tiny.fresh(family).double(), shared_prompts()
    order = authors_orders(len(prompts), 3, 42)
    fit = fit_reweighting(model, prompts, lr=0.1, placement=placement, order=order)
    beta, losses = trained_through_whole_prompts(model, prompts, placement, order, lr=0.1)
    torch.testing.assert_close(fit.losses.double(), losses, rtol=1e-5, atol=1e-5 * float(losses.max()))
    torch.testing.assert_close(fit.patch.beta, beta, rtol=1e-5, atol=1e-5 * float(beta.abs().max()))
    assert beta.abs().max() > 0.5
    elsewhere, _ = trained_through_whole_prompts(model, moved_anchors(prompts), placement, order, lr=0.1)
    assert (elsewhere - beta).abs().max() > 0.1


def trained_through_whole_prompts(
    model: Any, prompts: PromptSet, placement: str, order: list[list[int]], *, lr: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """beta [layer head class] and the loss of each step."""
    beta = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, 2, requires_grad=True)
    optimiser, losses = torch.optim.Adam([beta], lr=lr), []
    site = "attn.hook_pattern" if placement == "postsoftmax" else "attn.hook_attn_scores"

    def edit(layer: int, prompt: Prompt) -> Any:
        def change(value: torch.Tensor, hook: Any) -> torch.Tensor:
            changed = value.clone()
            for anchor, c in zip(prompt.anchors, prompt.anchor_classes, strict=True):
                own, at = beta[layer, :, c].double(), (0, slice(None), prompt.target, anchor)
                changed[at] = value[at] * own.exp() if placement == "postsoftmax" else value[at] + own
            return changed

        return change

    for index in (index for epoch in order for index in epoch):
        prompt = prompts[index]
        hooks = [(f"blocks.{layer}.{site}", edit(layer, prompt)) for layer in range(model.cfg.n_layers)]
        logits = model.run_with_hooks(torch.tensor([prompt.tokens]), fwd_hooks=hooks, prepend_bos=False)
        loss = torch.nn.functional.cross_entropy(
            logits[0, prompt.target, list(prompt.label_ids)], torch.tensor(prompt.gold)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return beta.detach(), torch.stack(losses)


def moved_anchors(prompts: PromptSet) -> PromptSet:
    """The same prompts with other tokens in the place of their label words."""
    others = [
        replace(prompt, demonstrations=tuple(replace(one, anchor=one.anchor - 2) for one in prompt.demonstrations))
        for prompt in prompts
    ]
    return replace(prompts, prompts=tuple(others))


@pytest.mark.parametrize("family", ["gpt2", "gptj", "neox", "neo", "llama", "gemma2"])
def test_fitting_in_lockstep_is_fitting_one_by_one(family: str) -> None:
    """In double precision, where rounding does not decide the direction of Adam's first steps."""
    model, prompts = tiny.fresh(family).double(), shared_prompts()
    variants = [
        Variant(prompts),
        Variant(prompts, ("heads",)),
        Variant(prompts, ("layers",)),
        Variant(moved_anchors(prompts)),
        Variant(prompts, placement="presoftmax"),
        Variant(prompts, keep=lambda context, prompt: context.keep((0, *prompt.anchors))),
    ]
    together = fit_together(model, variants, lr=0.1, epochs=3)
    for variant, fit in zip(variants, together, strict=True):
        alone = fit_reweighting(
            model, variant.prompts, lr=0.1, epochs=3, shared=variant.shared, placement=variant.placement,
            keep=variant.keep,
        )  # fmt: skip
        torch.testing.assert_close(fit.patch.beta, alone.patch.beta, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fit.losses, alone.losses, rtol=1e-5, atol=1e-6)
        assert (fit.patch.placement, fit.order) == (alone.patch.placement, alone.order)
    betas = [fit.patch.beta.expand(model.cfg.n_layers, model.cfg.n_heads, 2) for fit in together]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(betas) for b in betas[:i])


def test_it_learns_on_a_compressed_context() -> None:
    model, prompts = tiny.model("llama"), shared_prompts()
    patch = ReweightAnchors(random_beta(model))
    places = (0, *prompts[0].anchors)
    compressed = last_tokens(model, prompts, lambda context, prompt: context.keep(places))
    from mechicl.engines.context import read_context

    expected = read_context(model, prompts[0]).keep(places).ask(model, prompts, patches=[patch]).label_logits
    close(torch.cat([last.label_logits(model, [patch]) for last in compressed]), expected)


def test_it_is_saved_and_read_back(tmp_path: Any) -> None:
    patch = ReweightAnchors(random_beta(tiny.model("gpt2")), "presoftmax", {"task": "films"})
    patch.save(tmp_path)
    again = ReweightAnchors.load(tmp_path)
    assert torch.equal(again.beta, patch.beta)
    assert repr(again) == repr(patch)
    assert torch.equal(ReweightAnchors.from_json(patch.to_json()).beta, patch.beta)
    (tmp_path / "reweighting.json").write_text("{")
    for text in ("[]", "{}", '{"beta": "x"}', '{"beta": [[[0]]], "more": 1}', '{"beta": [0, [1]]}', "["):
        with pytest.raises(InputError, match=r"JSON.*[Ff]it and save it again"):
            ReweightAnchors.from_json(text)
    with pytest.raises(InputError, match=r"is not JSON.*save the re-weighting again"):
        ReweightAnchors.load(tmp_path)
    with pytest.raises(InputError, match="no saved re-weighting"):
        ReweightAnchors.load(tmp_path / "elsewhere")


def test_it_is_refused_where_the_label_words_are_others() -> None:
    model = tiny.model("gpt2")
    patch = fit_reweighting(model, films(), epochs=1).patch
    context = compress(model, films()[0])
    context.ask(model, films(), patches=[patch])
    other = replace(TASK, label_words={"negative": " Positive", "positive": " Negative"}).prompts(tiny.tokenizer())
    for asked in (
        lambda: run(model, other, patches=[patch]),
        lambda: last_tokens(model, other)[0].label_logits(model, [patch]),
    ):
        with pytest.raises(
            InputError, match="fitted for the label words ' Negative', ' Positive'; the prompts have ' P"
        ):
            asked()
    with pytest.raises(InputError, match="the prompts have 'class 0'"):
        run(model, shared_prompts(), patches=[patch])


def test_on_other_weights_than_it_was_fitted_to_it_acts_with_one_warning(tmp_path: Any) -> None:
    model, prompts = tiny.model("gpt2"), shared_prompts()
    fit_reweighting(model, prompts, epochs=1, lr=0.5).patch.save(tmp_path)
    patch, other = ReweightAnchors.load(tmp_path), tiny.fresh("gpt2")
    with torch.no_grad():
        other.blocks[0].attn.W_V[0] *= 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, prompts, patches=[patch])
        run(tiny.fresh("gpt2"), prompts, patches=[patch])
    with pytest.warns(UserWarning, match="was fitted to tiny-gpt2 with other weights") as told:
        changed = run(other, prompts, patches=[patch], batch_size=2).label_logits
    assert len(told) == 1
    assert (changed - run(other, prompts).label_logits).abs().max() > 1e-3


def test_refusals_say_what_to_do() -> None:
    model, prompts = tiny.model("gpt2"), shared_prompts()
    with pytest.raises(InputError, match=r"give a Tensor \[layer head class\]"):
        ReweightAnchors(torch.zeros(2))
    with pytest.raises(InputError, match="need layers, heads and classes"):
        run(model, prompts, patches=[ReweightAnchors(torch.zeros(7, 1, 2))])
    with pytest.raises(InputError, match="known labels"):
        fit_reweighting(model, [Prompt.from_positions([1, 2, 3, 4], [[1], [2]], [0, 1])])
    with pytest.raises(InputError, match="acts before the target"):
        last_tokens(model, prompts)[0].label_logits(model, [IsolateLabels((0,))])
