"""All lesions in one sweep equal each alone: by hooks, by blocks in another order, and by resuming in the middle."""

from __future__ import annotations

import math

import pytest
import torch

from mechicl import metrics
from mechicl.corpora import TokenBatch
from mechicl.engines.swap_weights import SwapWeights
from mechicl.engines.wavefront import final_residuals, lesion_sweep
from mechicl.errors import InputError
from mechicl.models import hooked
from mechicl.patches import Drop, DropAttention, DropMany, DropMLP, Reorder, Repeat, Replace, Steer, Swap
from tests import tiny

FAMILIES = [*tiny.families, "gpt2-inverse"]


def lesions(n_layers):
    """Every kind, everywhere."""
    each = range(n_layers)
    return [
        *(kind(layer) for kind in (Drop, DropAttention, DropMLP) for layer in each),
        *(Swap(layer) for layer in range(n_layers - 1)),
        *(Replace(a, b) for a in each for b in each if a != b),
        *(Repeat(start, 2) for start in range(n_layers - 1)),
        Repeat(0, n_layers, times=2),
        DropMany({0, n_layers - 1}),
        DropMany(each),
        *(kind(layer, positions=where) for kind in (Drop, DropMLP) for layer in (0, -1) for where in ("bos", "rest")),
        DropAttention(1, positions=lambda batch: batch.tokens % 2 == 0),
        Steer(torch.arange(tiny.D_MODEL), -1, 0.1),
        Reorder(tuple(reversed(each))),
    ]


def swept(net, tokens, patches):
    """Last residuals of the clean model and under each patch."""
    batch = TokenBatch(tokens, torch.full((len(tokens),), tokens.shape[1]))
    return final_residuals(net, net.embed(tokens), batch, patches)


def close(found, expected):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-5, f"relative error {error:.1e}"


@pytest.mark.parametrize("family", FAMILIES)
def test_sweep_is_each_lesion_alone(family):
    model, tokens = tiny.model(family), tiny.tokens(2, 9)
    net = hooked(model)
    asked = lesions(net.sizes.n_layers)
    with torch.no_grad():
        intact, *finals = swept(net, tokens, asked)
        close(intact, net.forward(tokens))
        for lesion, final in zip(asked, finals, strict=True):
            with lesion.on(model, TokenBatch(tokens, torch.tensor([9, 9]))):
                expected = net.forward(tokens)
            close(final, expected)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "neox", "llama", "phi"])
def test_drop_and_swap_by_resuming(family):
    model, tokens = tiny.model(family), tiny.tokens(2, 9)
    net = hooked(model)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        n_layers = net.sizes.n_layers
        found = swept(net, tokens, [Drop(1), Swap(0)])
        for resid, pre, start in (
            (found[1], cache["blocks.1.hook_resid_pre"], 2),
            (found[2], model.blocks[0](model.blocks[1](cache["blocks.0.hook_resid_pre"])), 2),
        ):
            close(resid, model(pre, start_at_layer=start, stop_at_layer=n_layers))


@pytest.mark.parametrize("family", ["gpt2", "gptj", "neox", "llama", "phi"])
def test_drop_is_both_halves_zeroed_and_swap_is_a_list_of_blocks_in_another_order(family):
    """By TransformerLens alone: its hooks, and its ModuleList permuted."""
    model, tokens = tiny.fresh(family), tiny.tokens(2, 9)
    net = hooked(model)
    n_layers = net.sizes.n_layers
    zero = [(f"blocks.1.hook_{half}_out", lambda value, hook: torch.zeros_like(value)) for half in ("attn", "mlp")]
    last = f"blocks.{n_layers - 1}.hook_resid_post"
    with torch.no_grad():
        ours = swept(net, tokens, [Drop(1), Swap(0)])[1:]
        seen: list[torch.Tensor] = []
        keep = lambda value, hook: seen.append(value)  # noqa: E731
        model.run_with_hooks(tokens, fwd_hooks=[*zero, (last, keep)])
        model.blocks = torch.nn.ModuleList([model.blocks[1], model.blocks[0], *model.blocks[2:]])
        model.run_with_hooks(tokens, fwd_hooks=[(last, keep)])
    for found, expected in zip(ours, seen, strict=True):
        close(found, expected)


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_measures_are_those_of_the_logits(family):
    model, tokens = tiny.model(family), tiny.tokens(2, 9)
    asked = [Drop(0), Swap(1)]
    result = lesion_sweep(model, tokens, asked, top_k=5)
    with torch.no_grad():
        base = model(tokens)
        for row, lesion in enumerate(asked):
            with lesion.on(model):
                logits = model(tokens)
            torch.testing.assert_close(result.kl[row], metrics.kl_divergence(base, logits), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(result.entropy[row], metrics.entropy(logits, unit="bits"), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(result.top_k_overlap[row], metrics.top_k_overlap(base, logits))
            loss = metrics.cross_entropy(logits[:, :-1], tokens[:, 1:])
            torch.testing.assert_close(result.loss[row, :, :-1], loss, atol=1e-5, rtol=1e-4)
            assert (result.top_token[row] == logits.argmax(-1)).all()
            assert (result.agreement[row] == metrics.top_1_agreement(base, logits)).all()
            hits = (logits[:, :-1].argmax(-1) == tokens[:, 1:]).float()
            assert torch.equal(result.correct[row, :, :-1], hits)


def test_a_lesion_that_changes_nothing_measures_nothing():
    result = lesion_sweep(tiny.model("gpt2"), tiny.tokens(), [Replace(1, 1)])
    assert result.kl.abs().max() < 1e-6
    assert (result.agreement == 1).all()
    assert (result.top_k_overlap == 1).all()
    torch.testing.assert_close(result.entropy[0], result.base_entropy)


def test_groups_and_padding_change_nothing():
    model, tokens = tiny.model("gpt2"), tiny.tokens(3, 9)
    lengths = torch.tensor([9, 6, 2])
    asked = lesions(3)
    whole = lesion_sweep(model, tokens, asked)
    parts = lesion_sweep(model, tokens, asked, lengths=lengths, max_streams=4)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(parts.kl[:, row, :length], whole.kl[:, row, :length], atol=1e-5, rtol=1e-4)
        assert parts.kl[:, row, length:].isnan().all()
        assert parts.loss[:, row, length - 1 :].isnan().all()
        assert parts.loss[:, row, : length - 1].isfinite().all()
        assert parts.correct[:, row, length - 1 :].isnan().all()


def test_blocks_are_shared_as_the_wavefront_promises():
    model, tokens = tiny.model("gpt2"), tiny.tokens(1, 4)
    net = hooked(model)
    n = net.sizes.n_layers
    calls: list[tuple[int, int]] = []
    seen = [
        (f"blocks.{layer}.hook_resid_pre", lambda value, hook, layer=layer: calls.append((layer, len(value))))
        for layer in range(n)
    ]
    with net.hooks(seen), torch.no_grad():
        swept(net, tokens, [Drop(layer) for layer in range(n)])
    assert calls == [(layer, 1 + layer) for layer in range(n)]


def test_intact_prediction_is_uniform_at_most():
    result = lesion_sweep(tiny.model("llama"), tiny.tokens(), [Drop(0)])
    assert (result.base_entropy <= math.log2(tiny.D_VOCAB)).all()
    assert (result.base_entropy >= 0).all()


@pytest.mark.parametrize(
    "lesion",
    [Drop(3), Drop(-4), Swap(2), Swap(-1), Repeat(2, 2), Repeat(0, 0), Replace(0, 9), DropMany([3]), Reorder((0, 1))],
)
def test_layers_that_are_not_there_are_refused(lesion):
    with pytest.raises(InputError, match="layers 0-2"):
        lesion_sweep(tiny.model("gpt2"), tiny.tokens(), [lesion])


def test_orders():
    assert list(Repeat(1, 2).order(4)) == [0, 1, 1, 2, 2, 3]
    assert list(Repeat(-2, 2).order(4)) == [0, 1, 2, 2, 3, 3]
    assert list(Reorder((0, 2, 1, -1)).order(4)) == list(Swap(1).order(4)) == list(Swap(-3).order(4)) == [0, 2, 1, 3]
    assert list(Replace(1, 3).order(4)) == list(Replace(-3, -1).order(4)) == [0, 3, 2, 3]
    assert Drop(1).order(4) is None


def test_a_model_comes_back_as_it_was():
    model, tokens = tiny.fresh("gpt2"), tiny.tokens()
    before, blocks = model(tokens), list(model.blocks)
    for lesion in (Swap(0), Repeat(0, 3), Drop(1)):
        with lesion.on(model):
            assert not torch.equal(model(tokens), before)
        with pytest.raises(InputError), lesion.on(model):
            raise InputError("an error inside")
    assert list(model.blocks) == blocks
    assert model.cfg.n_layers == 3
    assert torch.equal(model(tokens), before)


def test_a_sweep_without_lesions_is_refused() -> None:
    with pytest.raises(InputError, match="no ablation to sweep"):
        lesion_sweep(tiny.model("gpt2"), tiny.tokens(), [])


@pytest.mark.parametrize("family", ["gpt2", "gpt2-inverse", "neo", "neo/bridge", "gemma2"])
def test_weights_are_swapped_and_what_a_place_decides_stays(family):
    """As in a model whose blocks were given each other's parameters; a local window or a scale stays where it was."""
    model, tokens = tiny.fresh(family), tiny.tokens(2, 12)
    net = hooked(model)
    with torch.no_grad():
        intact, ours, blocks = swept(net, tokens, [SwapWeights(-2), Swap(-2)])
        close(net.forward(tokens), intact)  # the model is as it was
        first, second = (model.blocks[net.sizes.n_layers + i] for i in (-2, -1))
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            a.data, b.data = b.data, a.data
        close(ours, net.forward(tokens))
    alike = family == "gpt2"
    assert ((ours - blocks).abs().max() < 1e-5 * blocks.abs().max()) == alike
    with pytest.raises(InputError, match="has layers"):
        lesion_sweep(model, tokens, [SwapWeights(net.sizes.n_layers - 1)])
    with pytest.raises(InputError, match="give it to lesion_sweep"):
        SwapWeights(0).hooks(model)
