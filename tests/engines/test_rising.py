"""A clean run that rises from layer to layer changes nothing: against the plain pass under each patch, on every family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mechicl.engines.rising import run_each
from mechicl.hooks import Patch, run
from mechicl.models import hooked
from mechicl.patches import Drop, IsolateLabels, IsolateTemplate
from mechicl.probes import LabelAttention, TopTokens
from tests import tiny
from tests.engines.test_prefix import close, shared_prompts

TOP = TopTokens(5)
LISTS = [[IsolateLabels((0,))], [IsolateLabels((1,))], [], [IsolateLabels((1, 2))], [IsolateLabels((2,))], [Drop(1)],
         [IsolateLabels((0, 2), mode="postsoftmax_zero")], [IsolateLabels((1,)), IsolateLabels((2,))]]  # fmt: skip


@pytest.mark.parametrize("family", tiny.families)
def test_each_list_of_patches_gives_its_own_run(family: str) -> None:
    """Also where layers fall, with nothing to change, and with patches that act anywhere."""
    model, prompts = tiny.model(family), shared_prompts(3, seeds=(0, 1))
    for ours, patches in zip(run_each(model, prompts, [TOP], LISTS, batch_size=2), LISTS, strict=True):
        theirs = run(model, prompts, [TOP], patches, progress=None)
        close(ours.label_logits, theirs.label_logits)
        assert torch.equal(ours[TOP].values, theirs[TOP].values)


def test_a_probe_below_the_first_patch_reads_what_it_reads_in_a_plain_run() -> None:
    model, prompts, probe = tiny.model("gpt2"), shared_prompts(3), LabelAttention()
    lists = [[IsolateLabels((layer,))] for layer in (1, 2)]
    for ours, patches in zip(run_each(model, prompts, [probe], lists), lists, strict=True):
        close(ours[probe].values, run(model, prompts, [probe], patches, progress=None)[probe].values)


@dataclass(frozen=True)
class OtherWord(Patch):
    """A demonstration's first token is read as another word."""

    scope = "demonstrations"

    def hooks(self, model: Any, batch: Any) -> list[Any]:
        def write(value: torch.Tensor, hook: Any) -> torch.Tensor:
            edited = value.clone()
            edited[:, 1] = value[:, 2]
            return edited

        return [("hook_embed", write)]


def test_a_patch_of_the_embedding_acts_and_leaves_the_clean_run_clean() -> None:
    model, prompts = tiny.model("llama"), shared_prompts(3)
    lists = [[OtherWord()], [IsolateLabels((1,))], [OtherWord()]]
    for ours, patches in zip(run_each(model, prompts, [TOP], lists), lists, strict=True):
        close(ours.label_logits, run(model, prompts, [TOP], patches, progress=None).label_logits)


def test_layers_below_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of L lists, one per layer, the clean run takes each layer once, and each list the layers above."""
    model, prompts = tiny.model("gpt2"), shared_prompts(3)
    net, ran = hooked(model), []
    block = type(net).block
    monkeypatch.setattr(type(net), "block", lambda self, layer, *rest: ran.append(layer) or block(self, layer, *rest))
    list(run_each(model, prompts, [TOP], [[IsolateLabels((layer,))] for layer in range(3)]))
    rising, above = 2 * 2, 2 * (3 + 2 + 1)  # of demonstrations and queries
    assert len(ran) == rising + above


def test_a_patch_that_fails_leaves_no_hook_and_the_next_run_is_right() -> None:
    model, prompts = tiny.model("gpt2"), shared_prompts(3)
    runs = run_each(model, prompts, [TOP], [[IsolateLabels((1,))], [IsolateTemplate((2,), which="before_label")]])
    first = next(runs)
    with pytest.raises(ValueError, match="build it from a task"):
        next(runs)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    close(first.label_logits, run(model, prompts, [TOP], [IsolateLabels((1,))], progress=None).label_logits)
