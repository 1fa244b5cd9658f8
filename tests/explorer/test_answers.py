"""What the explorer says is what `mi.run` and the probes say, whatever is switched on; the model stays as it was."""

from __future__ import annotations

from dataclasses import replace
from time import process_time
from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.explorer import Explorer
from mechicl.explorer.explorer import usual_isolation
from mechicl.explorer.views import strongest
from mechicl.explorer.widget import reply
from tests import tiny
from tests.random_prompts import random_prompts

OFF = {"isolate": None, "drop": None, "own": []}
SWITCHES = [OFF, {**OFF, "isolate": 2}, {**OFF, "drop": 3}, {"isolate": 1, "drop": 0, "own": ["fewer anchors"]}]


def patches_of(switches: dict[str, Any], reweighting: mi.patches.ReweightAnchors) -> list[mi.Patch]:
    isolate, drop = switches["isolate"], switches["drop"]
    return [
        *([mi.patches.IsolateLabels(range(isolate))] if isolate else []),
        *([reweighting] if switches["own"] else []),
        *([mi.patches.Drop(drop)] if drop is not None else []),
    ]


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_view_holds_the_numbers_of_a_plain_run(
    explorer: Explorer, tiny_icl: Any, prompt: Any, reweighting: mi.patches.ReweightAnchors, switches: dict[str, Any]
) -> None:
    saliency, flow = mi.probes.SaliencyMap(tuple(range(6))), mi.probes.SaliencyFlow()
    out = mi.run(tiny_icl, [prompt], [saliency, flow], patches_of(switches, reweighting), progress=None)
    view = explorer.answer({"ask": "view", "switches": switches})
    assert view["probs"] == pytest.approx(out.label_probs[0].tolist(), rel=1e-3)
    for layer, edges in enumerate(out[saliency].values[0].tril(-1)):
        drawn = view["edges"][layer]
        assert [value for *_, value in drawn] == pytest.approx([float(edges[q, k]) for q, k, _ in drawn], rel=1e-3)
        if not drawn:
            assert switches["drop"] == layer
            assert float(edges.sum()) == 0
            continue
        assert drawn[0][2] == pytest.approx(float(edges.max()), rel=1e-3)
        assert view["shown"][layer] == pytest.approx(sum(v for *_, v in drawn) / float(edges.sum()), rel=2e-3)
        assert view["shown"][layer] >= 0.95 or len(drawn) == 120
        assert sum(view["into"][layer]) == pytest.approx(1, rel=1e-3)
        flows = torch.stack([of[0, layer] for of in out[flow].quantities.values()])
        assert view["flow"][layer] == pytest.approx((flows / flows.sum()).tolist(), rel=1e-3)


def test_heads_sum_to_the_saliency_of_the_layer(explorer: Explorer, tiny_icl: Any, prompt: Any) -> None:
    edges = mi.studies.saliency_map(tiny_icl, prompt, [1])[0]
    answer = explorer.answer({"ask": "heads", "switches": OFF, "about": 1})
    summed = [abs(sum(values)) for values in answer["values"]]
    assert summed == pytest.approx(
        [float(edges[q, k]) for q, k in answer["edges"]], rel=1e-2, abs=1e-3 * float(edges.max())
    )
    drawn = {(query, key) for query, key, _ in explorer.first_view["edges"][1]}
    assert drawn <= {tuple(edge) for edge in answer["edges"]}


@pytest.mark.parametrize("family", tiny.families)
def test_head_saliency_sums_to_saliency_and_the_last_guess_is_the_models(family: str) -> None:
    model, prompts = tiny.model(family), random_prompts(1, d_vocab=tiny.D_VOCAB)
    n_layers = model.cfg.n_layers
    heads, edges, lens = (
        mi.probes.HeadSaliency(1),
        mi.probes.SaliencyMap((1,)),
        mi.probes.LensTokens((2, prompts[0].target), k=4),
    )
    out = mi.run(model, prompts, [heads, edges, lens], progress=None)
    of_layer = out[edges].values[:, 0]
    assert torch.allclose(out[heads].values.sum(1).abs(), of_layer, rtol=1e-5, atol=1e-5 * float(of_layer.max()))
    logits = model(torch.tensor([prompts[0].tokens]), prepend_bos=False)[0].detach()
    for place, position in enumerate(lens.positions):
        best = logits[position].softmax(-1).topk(4)
        assert out[lens].shape[1] == n_layers + 1
        assert out[lens]["token"][0, -1, place].tolist() == best.indices.tolist()
        assert torch.allclose(out[lens]["probability"][0, -1, place], best.values, rtol=1e-4)


def test_guesses_end_with_what_the_model_says(explorer: Explorer, tiny_icl: Any, prompt: Any) -> None:
    rows = explorer.answer({"ask": "guesses", "switches": OFF, "about": 5})
    said = tiny_icl(torch.tensor([prompt.tokens]), prepend_bos=False)[0, 5].detach().softmax(-1)
    assert len(rows) == 7
    assert rows[-1][0] == tiny_icl.tokenizer.decode([int(said.argmax())])
    assert rows[-1][1] == pytest.approx(float(said.max()), rel=1e-3)


def test_only_as_many_edges_as_make_the_share_are_sent() -> None:
    assert strongest(torch.tensor([[0.0, 1.0], [97.0, 2.0]])).tolist() == [[1, 0]]
    assert strongest(torch.tensor([[0.0, 10.0], [80.0, 10.0]])).tolist() == [[1, 0], [0, 1], [1, 1]]
    assert strongest(torch.zeros(2, 2)).tolist() == []
    assert len(strongest(torch.ones(20, 20), most=7)) == 7


def test_the_model_comes_back_as_it_was(explorer: Explorer, tiny_icl: Any) -> None:
    before = {name: value.clone() for name, value in tiny_icl.state_dict().items()}
    flags = [parameter.requires_grad for parameter in tiny_icl.parameters()]
    for switches in SWITCHES:
        for ask in ("view", "heads", "guesses"):
            explorer.answer({"ask": ask, "switches": switches})
    assert all(torch.equal(value, before[name]) for name, value in tiny_icl.state_dict().items())
    assert flags == [parameter.requires_grad for parameter in tiny_icl.parameters()]
    assert not any(point.fwd_hooks or point.bwd_hooks for point in tiny_icl.hook_dict.values())


def test_an_answer_costs_a_few_forward_passes(explorer: Explorer, tiny_icl: Any, prompt: Any) -> None:
    def cost(work: Any) -> float:
        def once() -> float:
            start = process_time()
            work()
            return process_time() - start

        return min(once() for _ in range(4))

    plain = cost(lambda: mi.run(tiny_icl, [prompt], progress=None))
    for ask in ("view", "heads", "guesses"):
        assert cost(lambda ask=ask: explorer.answer({"ask": ask, "switches": SWITCHES[1], "about": 2})) < 25 * plain


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"ask": "view", "switches": {**OFF, "drop": 9}}, "layers 0-5"),
        ({"ask": "view", "switches": {**OFF, "isolate": 7}}, "6"),
        ({"ask": "view", "switches": {**OFF, "own": ["other"]}}, "no patch 'other'"),
        ({"ask": "guesses", "switches": OFF, "about": 1000}, "guesses"),
        ({"ask": "heads", "switches": OFF, "about": -1}, "heads"),
        ({"ask": "weather", "switches": OFF}, "weather"),
    ],
)
def test_what_goes_wrong_reaches_the_browser_in_one_sentence(explorer: Explorer, request_: Any, says: str) -> None:
    answer = reply(explorer, {"id": 7, **request_})
    assert says in answer["error"]
    assert "\n" not in answer["error"]
    assert answer["id"] == 7


def test_a_model_that_fails_is_reported_and_left_clean(prompt: Any) -> None:
    model = mi.load_model("tiny-icl")
    explorer = mi.explore(model, prompt)
    model.blocks[2].mlp.W_in.data[:] = float("nan")
    answer = reply(explorer, {"id": 1, "ask": "view", "switches": OFF})
    assert "nan" in answer["error"].lower()
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_what_cannot_be_explored_is_said(tiny_icl: Any, prompt: Any) -> None:
    long = replace(prompt, tokens=prompt.tokens * 10, target=10 * len(prompt) - 1)
    with pytest.raises(mi.InputError, match=r"has \d+ tokens.*saliency_map"):
        mi.explore(tiny_icl, long)
    with pytest.raises(mi.InputError, match=r"one prompt.*prompts\[0\]"):
        mi.explore(tiny_icl, [prompt])
    with pytest.raises(mi.InputError, match="not a patch"):
        mi.explore(tiny_icl, prompt, patches={"lens": mi.probes.LogitLens()})


def test_blocks_in_another_order_are_a_switch_like_any_other(tiny_icl: Any, prompt: Any) -> None:
    swapped = mi.explore(tiny_icl, prompt, patches={"swap": mi.patches.Swap(1)})
    view = swapped.answer({"ask": "view", "switches": OFF | {"own": ["swap"]}})
    plain = mi.run(tiny_icl, [prompt], patches=[mi.patches.Swap(1)]).label_probs[0]
    assert view["probs"] == pytest.approx(plain.tolist(), rel=1e-3)


def test_a_prompt_whose_class_is_unknown_is_explored_for_the_models_own_answer(tiny_icl: Any, prompt: Any) -> None:
    unknown = mi.explore(tiny_icl, replace(prompt, gold=None))
    assert unknown.start()["loss"] == "predicted"
    assert unknown.first_view["edges"][0]


def test_isolation_starts_where_the_paper_has_it() -> None:
    assert [usual_isolation(n) for n in (1, 6, 12, 48)] == [1, 2, 4, 5]


def test_a_token_that_the_tokenizer_does_not_have_is_shown_as_its_number() -> None:
    """Embeddings are often padded beyond the vocabulary; decoding such an id gives an empty text."""
    model = tiny.fresh("gpt2")
    unknown = len(model.tokenizer) + 7
    assert unknown < tiny.D_VOCAB
    assert model.tokenizer.decode([unknown]) == ""
    with torch.no_grad():
        model.unembed.b_U[unknown] = 90.0
    explorer = mi.explore(model, random_prompts(1)[0])
    guesses = explorer.answer({"ask": "guesses", "switches": OFF, "about": 2})
    assert guesses[-1][:2] == [f"[{unknown}]", 1.0]
    assert f'"[{unknown}]"' in explorer.html()
    tokens = mi.studies.neuron_tokens(model, 0, 0, k=tiny.D_VOCAB)
    assert f"[{unknown}]" in set(tokens["top"])
    assert "" not in set(tokens["bottom"])
