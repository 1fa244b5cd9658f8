"""Activation patching of label words: what the twin is, what the table holds, and what is found where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mechicl as mi
from mechicl.engines.patching import SITES, Transplant, transplanted
from mechicl.prompts import Prompt
from mechicl.studies.extensions.anchor_patching import ALL_LAYERS, LABELS, AnchorPatching, positions_of
from mechicl.studies.extensions.exchanged_labels import with_exchanged_labels
from tests import tiny
from tests.studies.extensions import plain

pytestmark = pytest.mark.filterwarnings("ignore:The tokenizer spells")


def test_the_twin_differs_in_its_label_words_alone() -> None:
    prompt = plain.prompts(1, shots=2)[0]
    twin = with_exchanged_labels(prompt)
    differ = [place for place, (a, b) in enumerate(zip(prompt.tokens, twin.tokens, strict=True)) if a != b]
    assert tuple(differ) == prompt.label_positions
    assert twin.anchor_classes == tuple(1 - c for c in prompt.anchor_classes)
    for one in twin.demonstrations:
        assert twin.tokens[one.anchor] == prompt.label_ids[one.label_class]
    assert with_exchanged_labels(twin).tokens == prompt.tokens
    with pytest.raises(mi.InputError, match="demonstrations of every class"):
        with_exchanged_labels(replace(prompt, demonstrations=prompt.demonstrations[:1]))


def test_no_kind_holds_position_0_and_random_text_is_as_much_as_label_words() -> None:
    kinds = positions_of(plain.prompts(1)[0])
    assert all(0 not in places for places in kinds.values())
    assert len(kinds["random text"]) == len(kinds[LABELS]) == 2
    assert set(kinds["random text"]) <= set(kinds["text"])
    assert not set(kinds["separators"]) & {*kinds["text"], *kinds[LABELS]}
    assert positions_of(Prompt.from_positions(range(9), [[2], [5]], [0, 1]))["separators"] == ()
    prompt = plain.prompts(1)[0]
    longer = tuple(
        replace(one, label=(*one.label, one.label[-1] + 1), template=tuple({*one.template} - {one.label[-1] + 1}))
        for one in prompt.demonstrations
    )
    of_two = positions_of(replace(prompt, demonstrations=longer))
    assert len(of_two["random text"]) == len(of_two[LABELS]) == 4, "a text token for every token of a label word"


def test_prompts_without_marked_text_have_no_bars_of_it() -> None:
    prompts = [Prompt.from_positions(range(9, 18), [[2], [5]], [11, 14]) for _ in range(2)]
    result = AnchorPatching(sites=("keys_values",), untrained=0).run(tiny.model("gpt2"), prompts)
    assert set(result.table["kind"]) == {LABELS, "random text", "target"}


def test_the_table_is_what_transplants_give() -> None:
    model, prompts = tiny.model("llama"), plain.prompts(3, demonstrations="per_seed")
    table = AnchorPatching(sites=("attn_out",), untrained=0).run(model, prompts, batch_size=4).table
    clean = prompts[1]
    answer = int(plain.logits(model, clean)[list(clean.label_ids)].argmax())
    twin = with_exchanged_labels(clean)
    sign = 1 - 2 * answer
    for one in table[(table["prompt"] == 1) & (table["kind"] == LABELS)].itertuples():
        layers = tuple(range(model.cfg.n_layers)) if one.layer == ALL_LAYERS else (one.layer,)
        base, source = (twin, clean) if one.direction == "clean into twin" else (clean, twin)
        edits = [Transplant(one.site, layers, places) for places in ((), clean.label_positions)]
        first, second = (sign * float(x[0] - x[1]) for x in transplanted(model, [base], [source], edits)[0])
        towards = 1 if base is twin else -1
        assert one.change == pytest.approx(towards * (second - first), abs=1e-4)
        assert (one.answer == 0) == (sign * second > 0)
        assert one.predicted == answer


@pytest.fixture(scope="module")
def result() -> mi.Result:
    model, task = mi.load_model("tiny-icl"), mi.load_task("tiny-topics-4")
    study = AnchorPatching(exact=2)
    return study.run(model, study.prompt_sets(task, model.tokenizer, seeds=(42, 43, 44), samples=3))


def test_predictions_follow_the_label_words_of_a_model_that_learns_in_context(result: mi.Result) -> None:
    assert [one.outcome for one in result.claims] == ["supported", "supported", "contradicted"]
    assert "Exchanged labels change" in " ".join(result.details())
    whole = result.summary().query("metric == 'clean_answer' and layer == -1").set_index(["direction", "kind"])["mean"]
    assert whole["clean into twin", LABELS] > 0.9 > 0.1 > whole["clean into twin", "random text"]
    assert whole["twin into clean", LABELS] < 0.1 < 0.9 < whole["twin into clean", "random text"]


def test_what_stands_before_the_first_label_word_restores_nothing(result: mi.Result) -> None:
    restored = result.summary().query("metric == 'restored' and layer >= 0").set_index(["site", "kind", "layer"])
    mean = restored["mean"]
    assert mean["resid_post", LABELS, 0] == pytest.approx(1, abs=0.02), "all that differs is there"
    assert mean["resid_post", LABELS, 5] == pytest.approx(0, abs=1e-5), "nothing reads it behind the last layer"
    assert mean["resid_post", "target", 5] == pytest.approx(1, abs=1e-4)
    assert abs(mean["keys_values", "target", 2]) < 0.1


def test_first_order_agrees_with_exact_where_it_should(result: mi.Result) -> None:
    agreement = next(iter(result.study.tables(result).values())).set_index("site")["correlation"]
    assert list(agreement.index) == list(SITES)
    assert (agreement > 0.9).all()
    single = result.table.query("layer >= 0 and weights == 'as given'")
    assert set(single.loc[single["change"].notna(), "prompt"]) == {0, 1}, "those that are made exactly"
    assert single["attributed"].notna().all()
    assert len(result.figure().data) == 2 * len(SITES) + 2
    shuffled = []
    for seed in range(8):
        mixed = np.random.default_rng(seed).permutation(result.table["attributed"])
        other = type(result)(result.study, result.table.assign(attributed=mixed), {})
        shuffled.append(next(iter(result.study.tables(other).values()))["correlation"])
    assert (np.mean(shuffled, 0) < 0.5).all(), "the control"
