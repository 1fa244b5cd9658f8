"""Enrichment: an oracle written as loops, its null, and draws of matched text."""

from __future__ import annotations

import pytest
import torch

import mechicl as mi
from mechicl.probes import Enrichment, HeadEnrichment, HeadSaliency
from mechicl.probes.enrichment import TOKEN_SETS, enrichment, token_sets
from mechicl.studies.label_words.saliency_map import saliency_map
from tests import tiny
from tests.random_prompts import random_prompts


def as_tensor(sets: list[list[int]]) -> torch.Tensor:
    most = max(map(len, sets))
    return torch.tensor([[[*members, *[-1] * (most - len(members))] for members in sets]])


def test_enrichment_by_its_definition() -> None:
    saliency = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))
    sets, q, start = [[3, 6], [2], [], [5, 7, 1]], 10, 9
    read = [saliency[0, q, key] for key in range(q)]
    into = {row: sum(saliency[0, row, key] for key in range(row)) / row for row in range(1, start)}
    ours = enrichment(saliency, as_tensor(sets), torch.tensor([q]), torch.tensor([start]))[0]
    for of_set, (reading, gathering) in zip(sets, ours.tolist(), strict=True):
        n = max(len(of_set), 1)
        assert reading == pytest.approx(float(sum(read[key] for key in of_set) / sum(read)) / (n / q))
        mean = sum(into.values()) / len(into)
        assert gathering == pytest.approx(float(sum(into[row] for row in of_set) / n / mean))


@pytest.mark.parametrize(("q", "start"), [(11, 10), (7, 5)])
def test_uniform_saliency_prefers_nothing(q: int, start: int) -> None:
    saliency = torch.zeros(1, 12, 12)
    saliency[:, : q + 1] = 0.3
    sets = as_tensor([[1, 4], [2, 3], [4]])
    torch.testing.assert_close(
        enrichment(saliency, sets, torch.tensor([q]), torch.tensor([start])), torch.ones(1, 3, 2)
    )
    saliency[:, q, 4] *= 9  # the control: what q reads more is seen in reading alone
    reading, gathering = enrichment(saliency, sets, torch.tensor([q]), torch.tensor([start]))[0, 2]
    assert reading > 4
    assert gathering == pytest.approx(1)


def test_the_probe_is_the_map_reduced_whatever_the_batch() -> None:
    model, prompts, probe = tiny.model("llama"), random_prompts(5, shots=2), Enrichment()
    reading = mi.run(model, prompts, [probe], progress=None)[probe]
    assert reading.shape == (5, model.cfg.n_layers, len(TOKEN_SETS))
    alone = mi.run(model, prompts, [probe], progress=None, batch_size=1)[probe]
    for index, prompt in enumerate(prompts):
        maps = saliency_map(model, prompt, range(model.cfg.n_layers))
        sets, n = as_tensor(token_sets(prompt)), len(maps)
        places = torch.full((n,), prompt.target), torch.full((n,), prompt.query_start)
        expected = enrichment(maps, sets.expand(n, -1, -1), *places)
        for place, name in enumerate(("reading", "gathering")):
            torch.testing.assert_close(reading[name][index], expected[..., place], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone[name][index], reading[name][index], rtol=1e-4, atol=1e-5)


def test_random_text_is_text_near_the_label_words() -> None:
    prompt = mi.load_task("reviews").prompts(tiny.tokenizer(), samples=1)[0]
    labels, text, colon, line_break = token_sets(prompt)
    assert set(text) <= set(prompt.w)
    assert len(set(text)) == len(labels) == len(prompt.anchors)
    assert {tiny.tokenizer().decode(prompt.tokens[place]) for place in colon} == {":"}
    assert all("\n" in tiny.tokenizer().decode(prompt.tokens[place]) for place in line_break)
    for label, match in zip(labels, text, strict=True):
        assert sum(abs(other - label) < abs(match - label) for other in prompt.w) < 10
    assert token_sets(prompt)[1] == text
    assert any(token_sets(prompt, seed)[1] != text for seed in range(1, 5))


def test_a_heads_enrichment_is_that_of_its_own_edges() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    found = mi.run(model, prompts, [probe := HeadEnrichment()], progress=None)[probe]
    for layer in range(model.cfg.n_layers):
        edges = mi.run(model, prompts, [one := HeadSaliency(layer)], progress=None)[one].values.nan_to_num().abs()
        for number, prompt in enumerate(prompts):
            q, start = torch.tensor([prompt.target]), torch.tensor([prompt.query_start])
            for head, of_head in enumerate(edges[number]):
                expected = enrichment(of_head[None], as_tensor([list(prompt.anchors)]), q, start)[0, 0]
                ours = torch.stack([found[kind][number, layer, head] for kind in ("reading", "gathering")])
                torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
