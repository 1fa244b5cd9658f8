"""Edits of values: where they act, what they write, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from mechicl.corpora import TokenBatch
from mechicl.errors import InputError
from mechicl.hooks import HookError, Patch, Probe, Watch, run
from mechicl.models import hooked
from mechicl.patches import (
    AblateHeads,
    AblateParts,
    Drop,
    DropAttention,
    DropMLP,
    FixNeurons,
    IsolateLabels,
    Steer,
    head_means,
    neuron_means,
    part_means,
)
from mechicl.probes import LabelAttention
from tests import tiny
from tests.random_prompts import random_prompts


def points(model: Any, patch: Patch, *names: str) -> list[torch.Tensor]:
    """Values at some hook points of two sequences under a patch."""
    tokens, values = tiny.tokens(2, 9), {}
    hooks = [(name, lambda value, hook, name=name: values.__setitem__(name, value.clone())) for name in names]
    with torch.no_grad(), patch.on(model, TokenBatch(tokens, torch.tensor([9, 9]))), hooked(model).hooks(hooks):
        hooked(model).forward(tokens)
    return [values[name] for name in names]


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2"])
@pytest.mark.parametrize("where", ["bos", "rest", "own"])
def test_a_layer_adds_nothing_at_these_positions_alone(family: str, where: str) -> None:
    even = lambda batch: batch.tokens % 2 == 0  # noqa: E731
    mask = {"bos": torch.arange(9)[None] == 0, "rest": torch.arange(9)[None] > 0, "own": tiny.tokens(2, 9) % 2 == 0}
    pre, post = points(
        tiny.model(family), Drop(1, positions=even if where == "own" else where),  # type: ignore[arg-type]
        "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post",
    )  # fmt: skip
    same = (pre == post).all(-1)
    assert torch.equal(same, mask[where].expand(2, 9))


def test_positions_together_make_the_whole() -> None:
    """Ablating position 0 and the rest at once is ablating everywhere; a control: either alone is not."""
    model, prompts = tiny.model("llama"), random_prompts(3)
    for kind in (Drop, DropAttention, DropMLP):
        parts = [kind(1, positions="bos"), kind(1, positions="rest")]
        whole, both, *each = (
            run(model, prompts, patches=patches).label_logits for patches in ([kind(1)], parts, parts[:1], parts[1:])
        )
        torch.testing.assert_close(both, whole)
        assert all((one - whole).abs().max() > 1e-4 for one in each)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_head_is_ablated_and_no_other(family: str) -> None:
    """Without its output, W_O of the head may hold anything; Llama's query heads share keys and values."""
    model, prompts = tiny.fresh(family), random_prompts(3)
    net, patch = hooked(model), AblateHeads(((1, 2), (-1, 0)))
    ours = run(model, prompts, patches=[patch]).label_logits
    clean = run(model, prompts).label_logits
    with torch.no_grad():
        for layer, head in ((1, 2), (net.sizes.n_layers - 1, 0)):
            net.W_O(layer)[head] = 0
    torch.testing.assert_close(run(model, prompts).label_logits, ours)
    assert (clean - ours).abs().max() > 1e-3


def test_means_of_heads_are_those_of_all_tokens_but_the_first() -> None:
    model, prompts = tiny.model("llama"), random_prompts(5)
    sizes = hooked(model).sizes
    z = []
    for prompt in prompts:
        _, cache = model.run_with_cache(torch.tensor([prompt.tokens]))
        z.append(torch.stack([cache[f"blocks.{i}.attn.hook_z"][0, 1:] for i in range(sizes.n_layers)], 1))
    means = head_means(model, prompts, batch_size=2)
    torch.testing.assert_close(means, torch.cat(z).mean(0), rtol=1e-4, atol=1e-5)
    patch = AblateHeads([(1, 3)], means)
    (ablated,) = points(model, patch, "blocks.1.attn.hook_z")
    torch.testing.assert_close(ablated[:, :, 3], means[1, 3].expand(2, 9, -1))
    (clean,) = points(model, Steer([0.0] * sizes.d_model, 0), "blocks.1.attn.hook_z")
    assert torch.equal(ablated[:, :, :3], clean[:, :, :3])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_neurons_and_parts_are_held_at_their_means(family: str) -> None:
    """As by hand, where what is ablated stands at its mean over all tokens but the first of each prompt."""
    model, prompts = tiny.model(family), random_prompts(5)
    n_layers = hooked(model).sizes.n_layers
    sites = ("mlp.hook_post", "hook_attn_out", "hook_mlp_out")
    seen: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for prompt in prompts:
        _, cache = model.run_with_cache(torch.tensor([prompt.tokens]))
        for site in sites:
            seen[site].append(torch.stack([cache[f"blocks.{i}.{site}"][0, 1:] for i in range(n_layers)], 1))
    means = neuron_means(model, prompts, batch_size=2), *(part_means(model, prompts, part) for part in ("attn", "mlp"))
    for site, mean in zip(sites, means, strict=True):
        torch.testing.assert_close(mean, torch.cat(seen[site]).mean(0), rtol=1e-4, atol=1e-5)
    site = "blocks.1.mlp.hook_post"
    (held,) = points(model, FixNeurons(((1, 4), (1, 2)), means=means[0]), site)
    (clean,) = points(model, FixNeurons(((0, 0),), positions=lambda batch: batch.tokens < 0), site)
    torch.testing.assert_close(held[..., [2, 4]], means[0][1, [2, 4]].expand(2, 9, -1))
    torch.testing.assert_close(held[..., [0, 1, 3]], clean[..., [0, 1, 3]])
    for part, mean in zip(("attn", "mlp"), means[1:], strict=True):
        names = f"blocks.0.hook_{part}_out", f"blocks.1.hook_{part}_out"
        both = points(model, AblateParts(part, (0, -2), mean, positions="rest"), *names)
        for layer, values in enumerate(both):
            torch.testing.assert_close(values[:, 1:], mean[layer].expand(2, 8, -1))
        assert (both[0][:, 0] - mean[0]).abs().max() > 1e-3
    with pytest.raises(InputError, match="take them with neuron_means"):
        FixNeurons(((0, 0),), means=means[1]).hooks(model)
    with pytest.raises(InputError, match="take them with part_means"):
        AblateParts("mlp", (0,), means[0][:, :3]).hooks(model)


def test_steering_adds_a_vector_and_carries_gradients() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(2)
    vector = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(0), requires_grad=True)
    clean, steered = (
        points(model, Steer(vector.detach(), -1, scale, positions="rest"), "blocks.2.hook_resid_pre")[0]
        for scale in (0.0, 2.0)
    )
    torch.testing.assert_close(steered[:, 1:] - clean[:, 1:], (2 * vector.detach()).expand(2, 8, -1))
    assert torch.equal(steered[:, 0], clean[:, 0])
    net, batch = hooked(model), prompts.batch()
    with Steer(vector, 0).on(model):
        net.lens(net.forward(batch.tokens)).sum().backward()
    assert vector.grad is not None
    assert vector.grad.abs().max() > 0


def test_patches_print_what_was_given_and_are_compared_by_value() -> None:
    assert repr(Drop(3)) == "Drop(layer=3)"
    assert repr(Drop(3, positions="bos")) == "Drop(layer=3, positions='bos')"
    assert Drop(3) == Drop(3) != Drop(3, positions="bos")
    ones, means = torch.ones(4), torch.ones(1, 2, 3)
    assert Steer(ones, 1) == Steer(ones.clone(), 1) != Steer(2 * ones, 1)
    assert hash(Steer(ones, 1)) == hash(Steer(ones.clone(), 1))
    assert AblateHeads([(0, 1)]) == AblateHeads(((0, 1),)) != AblateHeads([(0, 1)], means)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Drop(3), "layers 0-2"),
        (lambda: Drop(1.0), "layer is 1.0; give a whole number"),
        (lambda: Drop(-4), "-3 to -1 count from the end"),
        (lambda: IsolateLabels(5), "layers 0-2"),
        (lambda: AblateHeads([(0, 4)]), "heads 0-3"),
        (lambda: AblateHeads([(0, 1)], torch.zeros(2, 4, 8)), r"\[3, 4, 8\]"),
        (lambda: FixNeurons([(0, 999)]), "neurons 0-"),
        (lambda: Steer(torch.ones(5), 0), r"\[32\]"),
        (lambda: Steer(torch.ones(32), 7), "layers 0-2"),
        (lambda: Drop(0, positions="first"), "'all', 'bos' or 'rest'"),  # type: ignore[arg-type]
        (lambda: Drop(0, positions=lambda batch: batch.tokens), "boolean tensor"),
    ],
)
def test_what_the_model_does_not_have_is_refused_in_one_sentence(make: Callable[[], Patch], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(tiny.model("gpt2"), random_prompts(1), patches=[make()])


def test_layers_may_be_one_and_count_from_the_end() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    one, last, alone = (run(model, prompts, patches=[IsolateLabels(x)]).label_logits for x in ([2], [-1], 2))
    assert torch.equal(one, last)
    assert torch.equal(one, alone)
    with pytest.raises(InputError, match="list of integers"):
        IsolateLabels([0.5])


@dataclass(frozen=True)
class Returns(Patch):
    """Returns what a function makes of the value, at a point or at those that a filter lets through."""

    make: Any
    point: Any = "blocks.1.hook_mlp_out"

    def hooks(self, model: Any, batch: Any) -> Any:
        return [(self.point, lambda value, hook: self.make(value))]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda value: None, "NoneType"),
        (lambda value: {"value": value}, "dict"),
        (lambda value: value.detach().numpy(), "ndarray"),
        (lambda value: value[:1], "torch.Size"),
        (lambda value: value.double(), "float64"),
        (lambda value: np.float32(1), "float32"),
    ],
)
def test_what_an_edit_returns_is_checked(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=rf"Returns.* returned .*{words}.* at blocks.1.hook_mlp_out"):
        run(tiny.model("gpt2"), random_prompts(2), patches=[Returns(make)])


def test_hook_points_by_filter_as_run_with_hooks_takes_them() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(2)
    batch, zero = prompts.batch(), Returns(torch.zeros_like, lambda name: name.endswith("hook_z"))
    by_hand = model.run_with_hooks(batch.tokens, fwd_hooks=zero.hooks(model, batch), prepend_bos=False)
    ours = run(model, prompts, patches=[zero])
    q = torch.arange(2)
    torch.testing.assert_close(ours.label_logits, by_hand[q, batch.target][:, batch.label_ids], rtol=1e-4, atol=1e-5)
    for point, words in ((lambda name: False, "filter that matches none"), ("blocks.0.hook_zz", "Returns.*hook_zz")):
        with pytest.raises(InputError, match=words):
            run(model, prompts, patches=[Returns(torch.zeros_like, point)])


def test_a_filter_needs_one_point_that_fires() -> None:
    model, prompts = tiny.model("gptj"), random_prompts(1)  # parallel: hook_resid_mid is not on the way
    some = Returns(lambda value: 2 * value, lambda name: name in ("blocks.0.hook_attn_out", "blocks.0.attn.hook_v"))
    assert run(model, prompts, patches=[some]).label_logits.isfinite().all()
    model.hook_dict["never"] = type(model.hook_dict["hook_embed"])()
    try:
        with pytest.raises(HookError, match="never fired"):
            run(model, prompts, patches=[Returns(torch.clone, lambda name: name == "never")])
    finally:
        del model.hook_dict["never"]


def test_a_probe_may_name_its_points_by_a_filter() -> None:
    class Norms(Probe):
        axes = ("prompt", "layer")

        def watch(self, model: Any, batch: Any) -> Watch:
            kept: list[torch.Tensor] = []
            read = lambda value, hook: kept.append(value.norm(dim=(1, 2)))  # noqa: E731
            hooks: Any = [(lambda name: name.endswith("hook_resid_pre"), read)]
            return Watch(hooks, lambda: torch.stack(kept, 1))

    model, prompts = tiny.model("gpt2"), random_prompts(2)
    run(model, prompts, [probe := Norms(), LabelAttention()])[probe]
