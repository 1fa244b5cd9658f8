"""Prompts of different lengths in one reading: padding is NaN, has no row in the table, and counts in no mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.corpora import TokenCorpus
from mechicl.hooks import Patch, Probe, Watch, watch_layers
from mechicl.patches.lesions import Reordering
from tests import tiny


@dataclass(frozen=True)
class NormByPosition(Probe):
    axes = ("sequence", "layer", "position")
    units = {"norm": "activation"}

    def watch(self, model: Any, batch: Any) -> Watch:
        return watch_layers(model, "hook_resid_post", reduce=lambda _, resid: resid.float().norm(dim=-1))


@dataclass(frozen=True)
class DoubledLast(Reordering):
    """The first block runs last, and what it adds is doubled."""

    def order(self, n_layers: int) -> list[int]:
        return [*range(1, n_layers), 0]

    def hooks(self, model: Any, batch: Any = None) -> list[Any]:
        return [("blocks.0.hook_mlp_out", lambda value, hook: 2 * value)]


@pytest.fixture(scope="module")
def prompts() -> mi.PromptSet:
    tokenizer = tiny.tokenizer()
    task = mi.load_task("reviews")
    with pytest.warns(UserWarning, match="spells"):
        made = task.prompts(tokenizer, samples=6)
    assert len({len(prompt) for prompt in made}) > 1
    return made


@pytest.mark.parametrize("batch_size", [1, 16])
def test_padding_counts_in_no_mean(prompts: mi.PromptSet, batch_size: int) -> None:
    model, probe = tiny.model("gpt2"), NormByPosition()
    reading = mi.run(model, prompts, [probe], batch_size=batch_size, progress=None)[probe]
    means = reading.mean("position").values
    for row, prompt in enumerate(prompts):
        alone = mi.run(model, prompt, [probe], progress=None)[probe].values[0]
        torch.testing.assert_close(means[row], alone.double().mean(-1), rtol=1e-5, atol=1e-6)
        assert reading.values[row, :, len(prompt) :].isnan().all()
    assert len(reading.frame()) == sum(map(len, prompts)) * model.cfg.n_layers


def test_rows_are_named_for_what_they_are(prompts: mi.PromptSet) -> None:
    model, probe = tiny.model("gpt2"), mi.probes.Norms()
    tokens, ones = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.ones(2, 3, dtype=torch.long)
    corpus = TokenCorpus(tokens, torch.tensor([3, 3]), ones, ones, None, False)
    assert mi.run(model, prompts, [probe], progress=None)[probe].axes[0] == "prompt"
    assert mi.run(model, corpus, [probe], progress=None)[probe].axes[0] == "sequence"


def test_layers_count_from_the_end_in_saliency(prompts: mi.PromptSet) -> None:
    model = tiny.model("gpt2")
    last = model.cfg.n_layers - 2
    for of_layer in (mi.probes.HeadSaliency, lambda layer: mi.probes.SaliencyMap((layer,))):
        readings = [mi.run(model, prompts[0], [probe := of_layer(layer)], progress=None)[probe] for layer in (-2, last)]
        assert torch.equal(readings[0].values, readings[1].values)
    with pytest.raises(mi.InputError, match="HeadSaliency names layer 9"):
        mi.run(model, prompts[0], [mi.probes.HeadSaliency(9)], progress=None)


def test_a_patch_may_reorder_blocks_and_edit_them(prompts: mi.PromptSet) -> None:
    @dataclass(frozen=True)
    class Doubled(Patch):
        def hooks(self, model: Any, batch: Any = None) -> list[Any]:
            return DoubledLast().hooks(model, batch)

    model, order = tiny.model("gpt2"), mi.patches.Reorder((1, 2, 0))
    whole = mi.run(model, prompts, patches=[DoubledLast()], progress=None).label_logits
    apart = mi.run(model, prompts, patches=[order, Doubled()], progress=None).label_logits
    assert torch.equal(whole, apart)
    assert not torch.allclose(whole, mi.run(model, prompts, patches=[order], progress=None).label_logits)
