"""Heads that gather and read: scores by their definition, ablations against a plain loop, controls that are matched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import mechicl as mi
from mechicl.patches.ablate_heads import head_means
from mechicl.probes import HeadEnrichment, HeadScores, TextLoss
from mechicl.studies.extensions.anchor_heads import AnchorHeads
from mechicl.studies.extensions.head_ablations import matched_heads, output_norms, standard_scores, top_heads
from tests import tiny
from tests.random_prompts import random_prompts
from tests.studies.extensions import plain

pytestmark = pytest.mark.filterwarnings("ignore:The tokenizer spells")


@pytest.mark.parametrize("family", tiny.FIVE)
def test_ablations_are_a_plain_loop(family: str) -> None:
    """Zero ablation of the heads that rank highest, prompt by prompt."""
    model, prompts = tiny.model(family), plain.prompts(4)
    table = AnchorHeads(k=2, draws=1, untrained=0).run(model, prompts).table
    heads = table[(table["part"] == "heads") & (table["prompt"] % 2 == 0)]
    effect = heads.groupby(["layer", "head"])["reading_effect"].mean()
    chosen = [(int(layer), int(head)) for layer, head in effect.sort_values(ascending=False).index[:2]]

    def without(head: int) -> Callable[..., torch.Tensor]:
        def zero(z: torch.Tensor, hook: Any) -> torch.Tensor:
            return z * (torch.arange(z.shape[2]) != head)[:, None]

        return zero

    hooks = [(f"blocks.{layer}.attn.hook_z", without(head)) for layer, head in chosen]
    rows = table[(table["arm"] == "reading") & (table["method"] == "zero")].set_index("prompt")
    assert list(rows.index) == [1, 3]
    for index in (1, 3):
        prompt = prompts[index]
        logits, clean = (plain.logits(model, prompt, edits).detach() for edits in (hooks, []))
        labels = list(prompt.label_ids)
        assert rows.loc[index, "predicted"] == int(logits[labels].argmax())
        assert rows.loc[index, "label_loyalty"] == float(logits[labels].argmax() == clean[labels].argmax())
        tops = [set(x.topk(5).indices.tolist()) for x in (logits, clean)]
        assert rows.loc[index, "word_loyalty_5"] == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))


@pytest.mark.parametrize("family", tiny.cases)
def test_what_is_lost_without_one_head_is_a_plain_run_for_each(family: str) -> None:
    """Mean ablation, head by head, with the means of the prompts that are not asked."""
    model, prompts = tiny.model(family), plain.prompts(4)
    table = AnchorHeads(k=1, draws=1, untrained=0, alone=1).run(model, prompts).table
    rows = table[table["part"] == "heads"].set_index(["prompt", "layer", "head"])["lost_alone"]
    assert set(rows.dropna().index.get_level_values("prompt")) == {1}, "the first that heads are not ranked on"
    means = head_means(model, prompts.select([0, 2]))
    prompt = prompts[1]
    labels = list(prompt.label_ids)
    clean = plain.logits(model, prompt)[labels].detach()
    answer = int(clean.argmax())

    def margin(logits: torch.Tensor) -> float:
        return float(logits[answer] - logits[[c for c in range(len(logits)) if c != answer]].mean())

    for layer, head in np.ndindex(*means.shape[:2]):

        def at_its_mean(z: torch.Tensor, hook: Any, layer: int = layer, head: int = head) -> torch.Tensor:
            edited = z.clone()
            edited[:, :, head] = means[layer, head].to(z)
            return edited

        ablated = plain.logits(model, prompt, [(f"blocks.{layer}.attn.hook_z", at_its_mean)])[labels].detach()
        assert rows[1, layer, head] == pytest.approx(margin(clean) - margin(ablated), abs=2e-4)


def test_standard_scores_by_their_definition() -> None:
    model, half = tiny.model("llama"), 6
    once = torch.randint(5, 300, (1, half), generator=torch.Generator().manual_seed(0))
    for first in (0, 1):
        tokens = torch.cat([torch.zeros(1, first, dtype=torch.long), once, once], 1)
        patterns: list[torch.Tensor] = []
        names = plain.points(model, "attn.hook_pattern")
        with model.hooks([(name, lambda p, hook, seen=patterns: seen.append(p[0])) for name in names]):
            model(tokens, prepend_bos=False)
        none = torch.zeros_like(tokens)
        corpus = mi.TokenCorpus(tokens, torch.tensor([tokens.shape[1]]), none, none - 1, model.tokenizer, bool(first))
        reading = mi.run(model, corpus, [probe := HeadScores()], progress=None)[probe]
        n = tokens.shape[1]
        for layer, pattern in enumerate(patterns):
            to_next = [pattern[:, q, q - half + 1] for q in range(first + half, n)]
            previous = [pattern[:, q, q - 1] for q in range(2, n)]
            for name, expected in (("induction", to_next), ("previous", previous)):
                torch.testing.assert_close(reading[name][0, layer], torch.stack(expected).mean(0).detach())
    with pytest.raises(mi.InputError, match="whose second half repeats the first"):
        mi.run(model, random_prompts(1), [HeadScores()], progress=None)


@dataclass(frozen=True)
class Inducts(mi.Patch):
    """Head 0 of layer 1 attends to the token behind the first occurrence."""

    def hooks(self, model: Any, batch: Any) -> list[Any]:
        def write(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
            edited, half = pattern.clone(), pattern.shape[-1] // 2
            edited[:, 0] = 0
            edited[:, 0, torch.arange(half, 2 * half), torch.arange(1, half + 1)] = 1
            return edited

        return [("blocks.1.attn.hook_pattern", write)]


def test_an_induction_head_is_one() -> None:
    model = tiny.model("gpt2")
    before = standard_scores(model)["induction"]
    with Inducts().on(model):
        scores = standard_scores(model)["induction"]
    assert scores[1, 0] == pytest.approx(1)
    assert before.max() < 0.5
    np.testing.assert_allclose(scores[0], before[0])


def test_the_null_of_a_head_and_its_effect_in_logits() -> None:
    model, prompts = tiny.model("gpt2"), plain.prompts(2)
    probes = [HeadEnrichment(), HeadEnrichment(tokens="random text"), HeadEnrichment(absolute=True)]
    labels, text, effect = (mi.run(model, prompts, probes, progress=None)[probe] for probe in probes)
    assert (labels["reading"] - text["reading"]).abs().max() > 0.1
    ratio = effect["reading"] / labels["reading"]  # the average edge to the target
    assert (ratio > 0).all()
    assert ratio.std() > 0
    with pytest.raises(mi.InputError, match="tokens is 'nonsense'; it must be one of 'label words'"):
        HeadEnrichment(tokens="nonsense")


def test_the_loss_on_texts_is_that_of_their_tokens() -> None:
    model, prompts = tiny.model("neox"), plain.prompts(2)
    ours = mi.run(model, prompts, [probe := TextLoss()], progress=None)[probe]
    for index, prompt in enumerate(prompts):
        with torch.no_grad():
            log_p = model(torch.tensor([prompt.tokens]), prepend_bos=False)[0].log_softmax(-1)
        places = [place for place in (*prompt.w, *prompt.query_text) if place]
        expected = -sum(float(log_p[place - 1, prompt.tokens[place]]) for place in places) / len(places)
        assert float(ours["loss"][index]) == pytest.approx(expected, rel=1e-4)
        assert ours.counts["tokens"].flatten()[index] == len(places)


def test_controls_are_heads_of_the_same_layers_and_about_the_same_output() -> None:
    norms = np.exp(np.arange(48.0).reshape(6, 8) / 4)
    heads = top_heads(norms, 3)
    assert heads == ((5, 7), (5, 6), (5, 5))
    others = [one for one in np.ndindex(norms.shape) if one not in heads]
    drawn = matched_heads(heads, norms, others, generator=np.random.default_rng(0))
    assert len(set(drawn)) == 3
    assert not set(drawn) & set(heads)
    assert drawn[0] in {(5, head) for head in (1, 2, 3, 4)}, "the nearest in size, of those left in the layer"
    assert {layer for layer, _ in drawn} <= {4, 5}, "and of the nearest layer, where its own has too few left"
    sizes = output_norms(tiny.model("llama"), plain.prompts(2), 4)
    assert sizes.shape == (3, 4)
    assert (sizes > 0).all()


@pytest.fixture(scope="module")
def result() -> mi.Result:
    model, task = mi.load_model("tiny-icl"), mi.load_task("tiny-topics-4")
    study = AnchorHeads()
    return study.run(model, study.prompts(task, model.tokenizer, seed=42, samples=12))


def test_heads_that_gather_are_needed_and_heads_that_read_are_the_same_everywhere(result: mi.Result) -> None:
    reading, gathering, same = result.claims
    assert same.outcome == "supported"
    assert gathering.effect > 0.3
    assert reading.outcome != "supported", "other heads read in their place"
    assert "without the reading heads, by" in " ".join(result.details())
    common = next(iter(result.study.tables(result).values())).set_index("heads")
    assert common.loc["gathering, previous", "common"] > 2 * common.loc["gathering, previous", "by chance"]
    assert len(result.figure().data) >= 8
    titles = result.figure().layout.meta["panels"]
    assert {"answer's logit lost without this head alone", "each head: lost without it, by its reading effect"} <= {
        *titles
    }
    assert set(result.table[result.table["weights"] != "as given"]["lost_alone"].isna()) == {True}


def test_single_heads_can_be_left_out() -> None:
    model, prompts = tiny.model("llama"), plain.prompts(2)
    whole = AnchorHeads(k=1, draws=1, untrained=0, alone=0).run(model, prompts)
    assert whole.table["lost_alone"].isna().all()
    assert not [title for title in whole.figure().layout.meta["panels"] if "alone" in title]
