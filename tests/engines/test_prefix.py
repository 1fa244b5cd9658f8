"""Reading demonstrations once changes nothing: against the plain pass, on every family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mechicl.engines.context import Context, read_context
from mechicl.engines.last_token import last_tokens
from mechicl.engines.prefix import run_shared, shared_demonstrations
from mechicl.errors import InputError
from mechicl.hooks import Hook, Patch, Probe, Scope, Watch, run
from mechicl.models import hooked
from mechicl.patches import IsolateLabels, IsolateRandom
from mechicl.probes import LabelAttention, SaliencyFlow, TopTokens
from mechicl.prompts import Prompt, PromptBatch, PromptSet
from tests import tiny


def shared_prompts(n: int = 6, *, n_demonstrations: int = 20, seeds: tuple[int, ...] = (0,)) -> PromptSet:
    """Queries of different lengths behind one set of demonstrations for each seed."""
    prompts = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        shown = generator.integers(0, 100, n_demonstrations).tolist()
        for _ in range(n):
            query = generator.integers(0, 100, generator.integers(1, 9)).tolist()
            gold = int(generator.integers(2))
            prompts.append(Prompt.from_positions([*shown, *query], [[5], [n_demonstrations - 1]], [0, 1], gold))
    return PromptSet.of(prompts)


@dataclass(frozen=True)
class DoubleAtTarget(Patch):
    """Doubles what q attends to at the label words: acts at the target, by the axes of `Scope`."""

    @property
    def scope(self) -> Scope:
        return "target"

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        def double(pattern: Tensor, hook: Any) -> Tensor:
            edges = torch.ones_like(pattern)
            for i, target in enumerate(batch.target):
                edges[i, :, target, batch.anchors[i]] = 2.0
            return pattern * edges

        return [("blocks.1.attn.hook_pattern", double)]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("family", tiny.families)
@pytest.mark.parametrize("patches", [(), (IsolateLabels((0, 1)), DoubleAtTarget())], ids=["plain", "patched"])
def test_it_equals_the_plain_pass(family: str, patches: tuple[Patch, ...]) -> None:
    model, prompts = tiny.model(family), shared_prompts(seeds=(0, 1))
    probes = [LabelAttention(), TopTokens(3)]
    ours, theirs = run_shared(model, prompts, probes, patches, batch_size=4), run(model, prompts, probes, patches)
    close(ours.label_logits, theirs.label_logits)
    close(ours[probes[0]].values, theirs[probes[0]].values)
    assert torch.equal(ours[probes[1]].values, theirs[probes[1]].values)
    if patches:
        assert (theirs.label_logits - run(model, prompts).label_logits).abs().max() > 1e-2


@pytest.mark.parametrize("family", tiny.families)
def test_the_last_token_alone_gives_the_logits(family: str) -> None:
    model, prompts = tiny.model(family), shared_prompts()
    expected = run(model, prompts, patches=[DoubleAtTarget()]).label_logits
    ours = torch.cat([last.label_logits(model, [DoubleAtTarget()]) for last in last_tokens(model, prompts)])
    close(ours, expected)


@pytest.mark.parametrize("family", tiny.families)
def test_layers_below_a_patch_that_acts_anywhere_are_shared(family: str) -> None:
    model, prompts = tiny.model(family), shared_prompts(seeds=(0, 1))
    last = model.cfg.n_layers - 1
    patches, probes = [IsolateRandom((last - 1, last), pool="all"), IsolateLabels((last - 1,))], [TopTokens(3)]
    rows: dict[int, int] = {0: 0, last: 0}

    def count(layer: int) -> Any:
        def see(resid: Tensor, hook: Any) -> None:
            rows[layer] += resid.shape[0] * resid.shape[1]

        return see

    with hooked(model).hooks([(f"blocks.{layer}.hook_resid_pre", count(layer)) for layer in rows]):
        ours = run_shared(model, prompts, probes, patches, batch_size=4)
    assert rows[0] < rows[last] / 2, "demonstrations went through the layers below for every prompt"
    theirs = run(model, prompts, probes, patches)
    close(ours.label_logits, theirs.label_logits)
    assert torch.equal(ours[probes[0]].values, theirs[probes[0]].values)
    assert (theirs.label_logits - run(model, prompts).label_logits).abs().max() > 1e-3


@pytest.mark.parametrize("n_queries", [1, 2])
def test_what_cannot_be_divided_goes_the_plain_way(n_queries: int) -> None:
    model, prompts = tiny.model("gpt2"), shared_prompts(n_queries)
    patch = IsolateRandom((0,), pool="all")
    close(run_shared(model, prompts, patches=[patch]).label_logits, run(model, prompts, patches=[patch]).label_logits)
    probe = SaliencyFlow()
    ours, theirs = (way(model, prompts, [probe])[probe] for way in (run_shared, run))
    for flow in probe.units:
        close(ours[flow], theirs[flow])
    bloom = tiny.model("bloom")
    close(run_shared(bloom, prompts).label_logits, run(bloom, prompts).label_logits)
    zero_shot = PromptSet.of([Prompt.from_positions([1, 2, 3], [[], []], [0, 1])] * 2)
    close(run_shared(model, zero_shot).label_logits, run(model, zero_shot).label_logits)


def test_prompts_are_grouped_by_their_demonstrations() -> None:
    assert shared_demonstrations(shared_prompts(2, seeds=(0, 1))) == [(0, 1), (2, 3)]


@pytest.mark.parametrize("family", tiny.families)
def test_gathered_keys_are_masked_keys(family: str) -> None:
    """Dropping a key from the cache is hiding it from the query; positions stay as they were."""
    model, prompts, kept = tiny.model(family), shared_prompts(), (0, 5, 6, 19)
    hidden = torch.tensor([p not in kept for p in range(20)])

    def hide(scores: Tensor, hook: Any) -> Tensor:
        mask = torch.zeros(scores.shape[-2:], dtype=torch.bool)
        mask[20:, :20] = hidden
        return scores.masked_fill(mask, -torch.inf)

    class Hide(Patch):
        def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
            return [(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(model.sizes.n_layers)]

    context = read_context(model, prompts[0])
    close(context.keep(kept).ask(model, prompts).label_logits, run(model, prompts, patches=[Hide()]).label_logits)
    close(context.keep(range(20)).ask(model, prompts).label_logits, run(model, prompts).label_logits)
    moved = context.keep(kept, next_position=0).ask(model, prompts).label_logits
    assert (moved - context.keep(kept).ask(model, prompts).label_logits).abs().max() > 1e-3


def test_a_context_is_saved_and_read_back(tmp_path: Any) -> None:
    model, prompts = tiny.model("llama"), shared_prompts()
    context = read_context(model, prompts[0]).keep((0, 5, 19))
    context.save(tmp_path)
    again = Context.load(tmp_path)
    assert (again.places, again.next_position, again.label_ids) == (context.places, 20, (0, 1))
    assert again.n_bytes == context.n_bytes
    assert torch.equal(again.ask(model, prompts).label_logits, context.ask(model, prompts).label_logits)
    with pytest.raises(InputError, match="no saved context"):
        Context.load(tmp_path / "elsewhere")


def test_a_context_is_refused_by_a_model_that_did_not_read_it(tmp_path: Any) -> None:
    """Of the same sizes, in the same session or another; the same weights, loaded again, are the same model."""
    model, prompts = tiny.model("gpt2"), shared_prompts()
    context = read_context(model, prompts[0])
    context.keep((0, 5, 19)).save(tmp_path)
    other = tiny.fresh("gpt2")
    for asked in (context, again := Context.load(tmp_path)):
        assert len(asked.ask(other, prompts).label_logits)
    with torch.no_grad():
        other.blocks[1].mlp.b_out[0] += 1
    for asked in (context, again):
        with pytest.raises(InputError, match="read by another model than tiny-gpt2: by tiny-gpt2 with other weights"):
            asked.ask(other, prompts)


def test_refusals_say_what_to_do() -> None:
    model, prompts = tiny.model("gpt2"), shared_prompts()
    context = read_context(model, prompts[0])
    with pytest.raises(InputError, match="cannot be kept"):
        context.keep((0, 99))
    with pytest.raises(InputError, match="SaliencyFlow needs the whole prompt"):
        context.ask(model, prompts, [SaliencyFlow()])
    with pytest.raises(InputError, match="label words"):
        context.ask(model, PromptSet.of([replace(prompts[0], label_ids=(3, 4))]))
    with pytest.raises(InputError, match="another model"):
        context.ask(tiny.model("llama"), prompts)
    with pytest.raises(InputError, match="no demonstrations"):
        read_context(model, Prompt.from_positions([1, 2, 3], [[], []], [0, 1]))
    with pytest.raises(InputError, match="block by block"):
        read_context(tiny.model("bloom"), prompts[0])


@dataclass(frozen=True)
class NormAtTarget(Probe):
    """Length of the residual at q after the first layer, wherever it is read: below every patch here."""

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        seen: list[Tensor] = []
        rows = torch.arange(len(batch.target))

        def see(resid: Tensor, hook: Any) -> None:
            seen.append(resid[rows, batch.target].norm(dim=-1))

        return Watch([("blocks.0.hook_resid_post", see)], lambda: seen[0])


@dataclass(frozen=True)
class ScaleAtTheEnd(Patch):
    """Scales what the unembedding reads: acts above every layer."""

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        return [("ln_final.hook_normalized", lambda normalized, hook: normalized * 2)]


@pytest.mark.parametrize(
    "patches", [[IsolateLabels((1,))], [ScaleAtTheEnd()], [IsolateRandom((1, 2)), ScaleAtTheEnd()]]
)
def test_lower_layers_are_run_once_only_below_whatever_reads_or_writes(patches: list[Patch]) -> None:
    """Patches that act in the query, too: layers below them are shared, unless a probe looks there."""
    model, prompts = tiny.model("gpt2"), shared_prompts()
    for probes in ([], [NormAtTarget()]):
        ours, plain = (pass_(model, prompts, probes, patches) for pass_ in (run_shared, run))
        close(ours.label_logits, plain.label_logits)
        for probe in probes:
            close(ours[probe].values, plain[probe].values)
    assert (plain.label_logits - run(model, prompts).label_logits).abs().max() > 1e-4
