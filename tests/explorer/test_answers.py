"""What the explorer says is what `mi.run` and the probes say, whatever is switched on; the model stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mechicl as mi
from mechicl.engines.alone import label_logits_alone
from mechicl.explorer import Explorer
from mechicl.explorer.explorer import usual_isolation
from mechicl.explorer.kept import OFF, kept, lensed
from mechicl.explorer.views import at_once, guesses, strongest, view
from mechicl.explorer.widget import reply
from tests import tiny
from tests.random_prompts import random_prompts

SWITCHES = [
    OFF,
    {**OFF, "isolate": [0, 1]},
    {**OFF, "drop": 3},
    {**OFF, "isolate": [1, 2], "drop": 0, "own": ["fewer anchors"]},
    {**OFF, "heads": [[2, 0], [2, 3], [4, 1]]},
]


def patches_of(switches: dict[str, Any], reweighting: mi.patches.ReweightAnchors) -> list[mi.Patch]:
    isolate, drop, heads = switches["isolate"], switches["drop"], switches["heads"]
    return [
        *([mi.patches.IsolateLabels(range(isolate[0], isolate[1] + 1))] if isolate else []),
        *([reweighting] if switches["own"] else []),
        *([mi.patches.Drop(drop)] if drop is not None else []),
        *([mi.patches.AblateHeads([tuple(head) for head in heads])] if heads else []),
    ]


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_view_holds_the_numbers_of_a_plain_run(
    explorer: Explorer, tiny_icl: Any, prompt: Any, reweighting: mi.patches.ReweightAnchors, switches: dict[str, Any]
) -> None:
    saliency, attention = mi.probes.SaliencyMap(tuple(range(6))), mi.probes.AttentionMap(tuple(range(6)))
    flow, enrichment = mi.probes.SaliencyFlow(), mi.probes.Enrichment()
    out = mi.run(
        tiny_icl, [prompt], [saliency, attention, flow, enrichment], patches_of(switches, reweighting), progress=None
    )
    view = explorer.answer({"ask": "view", "switches": switches})
    assert view["probs"] == pytest.approx(out.label_probs[0].tolist(), rel=1e-3)
    for layer, edges in enumerate(out[saliency].values[0].tril(-1)):
        drawn = view["saliency"]["edges"][layer]
        assert [value for *_, value in drawn] == pytest.approx([float(edges[q, k]) for q, k, _ in drawn], rel=1e-3)
        if not drawn:
            assert switches["drop"] == layer
            assert float(edges.sum()) == 0
            continue
        assert drawn[0][2] == pytest.approx(float(edges.max()), rel=1e-3)
        assert view["saliency"]["shown"][layer] == pytest.approx(
            sum(v for *_, v in drawn) / float(edges.sum()), rel=2e-3
        )
        assert view["saliency"]["shown"][layer] >= 0.95 or len(drawn) == 120
        attended = out[attention].values[0, layer].tril(-1)
        attended[:, 0] = 0
        query, key, value = view["attention"]["edges"][layer][0]
        assert value == pytest.approx(float(attended.max()), rel=1e-3) == pytest.approx(float(attended[query, key]))
        assert sum(view["into"][layer]) == pytest.approx(1, rel=1e-3)
        reading = [view["reading"][layer][place] for place in prompt.anchors]
        assert view["enriched"][layer][0] == pytest.approx(sum(reading) / len(reading), rel=1e-2, abs=1e-3)
        assert view["enriched"][layer][2] == pytest.approx(float(out[enrichment]["gathering"][0, layer, 0]), rel=1e-3)
        flows = torch.stack([of[0, layer] for of in out[flow].quantities.values()])
        assert view["flow"][layer] == pytest.approx((flows / flows.sum()).tolist(), rel=1e-3)


def test_heads_sum_to_the_saliency_of_the_layer(explorer: Explorer, tiny_icl: Any, prompt: Any) -> None:
    edges = mi.studies.saliency_map(tiny_icl, prompt, [1])[0]
    answer = explorer.answer({"ask": "heads", "switches": OFF, "about": 1})
    summed = [abs(sum(values)) for values in answer["values"]]
    assert summed == pytest.approx(
        [float(edges[q, k]) for q, k in answer["edges"]], rel=1e-2, abs=1e-3 * float(edges.max())
    )
    drawn = {(query, key) for query, key, _ in explorer.first_view["saliency"]["edges"][1]}
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
        ({"ask": "view", "switches": {**OFF, "isolate": [0, 6]}}, "layers 0-5"),
        ({"ask": "view", "switches": {**OFF, "own": ["other"]}}, "no patch 'other'"),
        ({"ask": "view", "switches": {**OFF, "heads": [[0, 9]]}}, "no head"),
        ({"ask": "view", "switches": {**OFF, "exchange": 2}}, "no demonstration 2"),
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
    long = replace(prompt, tokens=prompt.tokens * 50, target=50 * len(prompt) - 1)
    with pytest.raises(mi.InputError, match=r"has \d+ tokens.*at most 2000"):
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
    assert unknown.first_view["saliency"]["edges"][0]


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
    assert guesses[-1][:2] == [unknown, 1.0]
    assert f"[{unknown},1.0," in explorer.html()
    tokens = mi.studies.neuron_tokens(model, 0, 0, k=tiny.D_VOCAB)
    assert f"[{unknown}]" in set(tokens["top"])
    assert "" not in set(tokens["bottom"])


def test_a_page_keeps_what_plain_runs_say(explorer: Explorer, tiny_icl: Any, prompt: Any) -> None:
    """View, heads and guesses share passes, and dropped layers and ablated heads a sweep: they equal a pass for each."""
    clean, page = kept(explorer)
    assert clean == mi.explore(tiny_icl, prompt).first_view
    for one in page["views"]:
        plain = explorer.answer({"ask": "view", "switches": one["switches"]})
        assert one["view"]["probs"] == pytest.approx(plain["probs"], rel=1e-3, abs=1e-6)
        if "saliency" in one["view"]:
            assert one["view"] == plain
    assert [one["switches"]["drop"] for one in page["views"] if one["switches"]["drop"] is not None] == list(range(6))
    ablated = [one["switches"]["heads"][0] for one in page["views"] if one["switches"]["heads"]]
    reading = torch.tensor(clean["heads"])
    assert sorted(reading[layer, head].item() for layer, head in ablated) == sorted(
        reading.flatten().topk(4).values.tolist()
    )
    for layer in range(6):
        plain = explorer.answer({"ask": "heads", "switches": OFF, "about": layer})
        assert page["heads"][layer]["edges"] == plain["edges"]
        ours, theirs = (torch.tensor(one["values"]) for one in (page["heads"][layer], plain))
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))
    for place in (0, 5, prompt.target):
        assert page["guesses"][place] == explorer.answer({"ask": "guesses", "switches": OFF, "about": place})


def products(work: Callable[[], object]) -> int:
    """Number of floating-point operations in matrix products."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_page_computes_three_views_one_sweep_and_the_lens(tiny_icl: Any, prompt: Any) -> None:
    """Heads of all layers add nothing to their view's passes, and a changed answer runs only the layers it changes."""
    n_layers, places = tiny_icl.cfg.n_layers, lensed(prompt)
    forward = products(lambda: mi.run(tiny_icl, [prompt], progress=None))
    one = products(lambda: view(tiny_icl, prompt, []))
    lens = products(lambda: guesses(tiny_icl, prompt, [], places)) - forward
    clean = at_once(tiny_icl, prompt, [], range(n_layers), places)[0]
    assert products(lambda: at_once(tiny_icl, prompt, [], range(n_layers), places)) == pytest.approx(
        one + lens, rel=0.01
    )
    dropped = sum(n_layers - 1 - layer for layer in range(n_layers))
    ablated = sum(n_layers - layer for layer, _ in clean["most"])
    sweep = (n_layers + dropped + ablated) / n_layers * forward  # without changes, then from the change on
    assert products(lambda: kept(mi.explore(tiny_icl, prompt))) < 1.01 * (3 * one + lens + sweep)


@dataclass(frozen=True)
class HalfEmbedding(mi.Patch):
    """Acts before the first block."""

    def hooks(self, model: Any, batch: Any) -> list[Any]:
        return [("hook_embed", lambda value, hook: 0.5 * value)]


@pytest.mark.parametrize("family", tiny.families)
def test_patches_swept_together_answer_as_each_alone(family: str) -> None:
    model, prompt = tiny.model(family), random_prompts(1, d_vocab=tiny.D_VOCAB)[0]
    patches = [
        mi.patches.Drop(0), mi.patches.IsolateLabels([1]), mi.patches.AblateHeads([(0, 1), (1, 0)]),
        mi.patches.Swap(0), HalfEmbedding(),
    ]  # fmt: skip
    swept = label_logits_alone(model, prompt, patches)
    alone = torch.cat([mi.run(model, prompt, patches=[patch], progress=None).label_logits for patch in patches])
    assert torch.allclose(swept, alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


def test_an_exchanged_label_word_is_another_prompt(explorer: Explorer, tiny_icl: Any, prompt: Any) -> None:
    view = explorer.answer({"ask": "view", "switches": {**OFF, "exchange": 1}})
    twin = explorer.exchanged({**OFF, "exchange": 1})
    differing = [place for place, pair in enumerate(zip(prompt.tokens, twin.tokens, strict=True)) if len(set(pair)) > 1]
    assert differing == list(prompt.demonstrations[1].label)
    assert twin.demonstrations[0] == prompt.demonstrations[0]
    assert view["probs"] == pytest.approx(mi.run(tiny_icl, twin).label_probs[0].tolist(), rel=1e-3)
    (told,) = [one for one in explorer.outline["exchanges"] if one["number"] == 1]
    assert list(told["texts"].values()) == [prompt.label_words[twin.demonstrations[1].label_class]]


def test_a_text_is_explored_for_the_tokens_that_the_model_finds_most_probable(tiny_icl: Any) -> None:
    explorer = mi.explore(tiny_icl, "Text: the ta ni")
    said = tiny_icl(torch.tensor([explorer.prompt.tokens]), prepend_bos=False)[0, -1].detach().softmax(-1)
    assert list(explorer.prompt.label_ids) == said.topk(5).indices.tolist()
    assert explorer.first_view["flow"] is explorer.first_view["enriched"] is explorer.first_view["heads"] is None
    assert explorer.first_view["saliency"]["edges"][0]
    assert explorer.outline["isolate"] is None
    named = mi.explore(tiny_icl, "Text: the ta ni", answers=[" Amber", " Harbor"])
    ids = [tiny_icl.tokenizer.encode(word, add_special_tokens=False)[0] for word in (" Amber", " Harbor")]
    assert named.first_view["probs"] == pytest.approx((said[ids] / said[ids].sum()).tolist(), rel=1e-3)


def test_a_conversation_is_written_by_the_chat_template(tiny_icl: Any) -> None:
    from copy import deepcopy

    from mechicl.prompts import free_prompt

    tokenizer = deepcopy(tiny_icl.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}you:{% endif %}"
    prompt = free_prompt(tokenizer, [{"role": "me", "content": "so na"}], [" Amber"])
    assert prompt.string == "me: so na\nyou:"
    assert list(prompt.tokens) == tokenizer.encode(prompt.string, add_special_tokens=False)
    assert (prompt.target, prompt.anchors) == (len(prompt) - 1, ())


@pytest.mark.parametrize(
    ("given", "answers", "says"),
    [
        ("", None, "no tokens"),
        ("Text:", " Amber", "answers is a string"),
        ("Text:", [" Amber", " Amber"], "tokens of their own"),
        ([{"role": "me"}], None, "list of messages"),
        ([{"role": "me", "content": "so"}], None, "no chat template"),
        (3, None, "one prompt, a text"),
    ],
)
def test_a_text_that_cannot_be_explored_is_refused(tiny_icl: Any, given: Any, answers: Any, says: str) -> None:
    for look in (mi.explore, mi.scan):
        with pytest.raises(mi.InputError, match=says):
            look(tiny_icl, given, answers=answers)


def test_a_long_prompt_keeps_the_lens_at_its_label_words_and_at_its_end(prompt: Any) -> None:
    assert lensed(prompt) == list(range(len(prompt)))
    long = replace(prompt, tokens=(*prompt.tokens[:-1], *prompt.tokens[-1:] * 200), target=len(prompt) + 198)
    assert {*prompt.label_positions, long.target} <= set(lensed(long))
    assert len(lensed(long)) <= 64
