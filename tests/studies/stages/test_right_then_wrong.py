"""Predictions that late layers spoil: counted as by hand, against what chance and random weights give."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechicl.claims import decide
from mechicl.corpora import load_corpus
from mechicl.studies import right_then_wrong
from mechicl.studies.stages.right_then_wrong import (
    RESTORED,
    SPOIL_MORE,
    SPOILT,
    RightThenWrong,
    _Sequence,
    late,
    some_of_middle,
)
from tests import tiny

TEXTS = ["good film bad film good film World Sports good", "Sports World film bad bad good Question Answer Type"]
N_LAYERS = 8


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=24, packing="documents", prepend_bos=True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_accuracies_are_those_of_the_lens_by_hand(family, corpus):
    model = tiny.fresh(family, "fold")
    table = right_then_wrong(model, corpus, untrained=0).table
    tokens = corpus.tokens[:1, : corpus.lengths[0]]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, prepend_bos=False)
        points = [*(cache[f"blocks.{i}.hook_resid_pre"] for i in range(3)), cache["blocks.2.hook_resid_post"]]
        tops = torch.stack([model.unembed(model.ln_final(resid))[0].argmax(-1) for resid in points])
    right = (tops[:, 1:-1] == tokens[0, 2:]).numpy()
    rows = table.query("sequence == 0 and entropy == 'all tokens'")
    of_lens = rows.query("arm == 'lens' and quantity == 'accuracy'").sort_values("layer")["value"]
    np.testing.assert_allclose(of_lens, right.mean(1))
    lost = right[1:3].any(0) & ~right[3]
    of_any = rows.query("arm == 'any'").set_index("quantity")["value"]
    assert of_any["right, then wrong"] == pytest.approx(lost.mean())
    assert of_any["right at the end alone"] == pytest.approx((right[3] & ~right[1:3].any(0)).mean())
    dropped = rows.query("arm == 'drop' and quantity == 'accuracy'").set_index("layer")["value"]
    assert set(dropped.index) == {*late(3), *some_of_middle(3)}


def sequence(on_the_way, final, targets):
    n = len(targets)
    return _Sequence(targets, final, on_the_way, on_the_way[:0], {"all tokens": np.ones(n, dtype=bool)})


def test_what_late_layers_turn_wrong_was_right_before_them():
    targets, final = np.array([7, 7, 7, 7]), np.array([7, 1, 1, 1])
    on_the_way = np.array([[0, 0, 0, 0], [7, 7, 0, 0], [7, 0, 7, 0], [7, 0, 7, 0]])
    one = sequence(on_the_way, final, targets)
    one = _Sequence(one.targets, one.final, on_the_way, np.array([[7, 7, 7, 1]]), one.groups)
    (restored,) = [rows for rows in one.with_dropped([2], first_late=2) if set(rows["quantity"]) == {"restored"}]
    assert restored[["tokens", "value"]].to_numpy().tolist() == [[1, 1.0]]  # the third token alone


def test_by_chance_is_the_mean_over_all_other_targets_that_are_as_wrong():
    draw = np.random.default_rng(0)
    one = sequence(draw.integers(0, 6, (5, 30)), draw.integers(0, 6, 30), draw.integers(0, 6, 30))
    wrong = np.flatnonzero(one.final != one.targets)
    for i in range(30):
        others = [j for j in wrong if j != i and one.targets[j] != one.final[i]]
        hits = [one.targets[j] in set(one.on_the_way[1:, i]) for j in others]
        assert one.by_chance()[i] == pytest.approx(np.mean(hits) if i in wrong else 0)
    assert one.spoilt().mean() == pytest.approx(one.by_chance().mean(), abs=0.15)  # the targets are random


def test_each_group_of_entropy_has_its_own_share(corpus):
    table = right_then_wrong(tiny.fresh("gpt2", "fold"), corpus, untrained=0).table.query("arm == 'any'")
    for _, rows in table.groupby(["sequence", "quantity"]):
        by_group = rows.query("entropy != 'all tokens'")
        whole = rows.query("entropy == 'all tokens'").iloc[0]
        assert by_group["tokens"].sum() == whole["tokens"]
        assert np.average(by_group["value"], weights=by_group["tokens"]) == pytest.approx(whole["value"])


def planted(spoilt, twins, restored=0.5, repaired=0.2, returned=0.1):
    """Documents of which so many tokens are spoilt beyond .02 by chance, in the model and in four twins."""
    draw, rows = np.random.default_rng(0), []
    for weights in ("as given", *(f"untrained {seed}" for seed in range(4))):
        for document in range(12):
            share = spoilt if weights == "as given" else twins
            values = {"right, then wrong": share + 0.02, "by chance": 0.02, "right at the end alone": 0.1}
            about = {
                "weights": weights,
                "sequence": document,
                "document": document,
                "model": "m",
                "entropy": "all tokens",
            }
            for quantity, value in values.items():
                noise = draw.normal(0, 0.004)
                rows.append(
                    {
                        **about,
                        "arm": "any",
                        "layer": N_LAYERS,
                        "quantity": quantity,
                        "value": value + noise,
                        "tokens": 100,
                    }
                )
            for layer in range(N_LAYERS + 1):
                rows.append(
                    {**about, "arm": "lens", "layer": layer, "quantity": "accuracy", "value": layer / 20, "tokens": 100}
                )
            rows.append(
                {**about, "arm": "lens", "layer": 3, "quantity": "right, then wrong", "value": 0.01, "tokens": 100}
            )
            at = {**about, "arm": "lens", "layer": late(N_LAYERS)[0], "tokens": 100}
            for quantity, value in (
                ("right, then wrong", 0.1),
                ("wrong, then right", repaired if weights == "as given" else 0.1),
            ):
                rows.append({**at, "quantity": quantity, "value": value + draw.normal(0, 0.004)})
            for layer in (*late(N_LAYERS), *some_of_middle(N_LAYERS)):
                back = restored if layer in late(N_LAYERS) and weights == "as given" else 0.1
                known = weights == "as given" or layer not in late(N_LAYERS)
                undone = {"restored": back, "returned": 0.1 if known else returned}
                undone = {name: share + draw.normal(0, 0.02) for name, share in undone.items()}
                for quantity, value in (undone | {"accuracy": 0.3}).items():
                    rows.append(
                        {**about, "arm": "drop", "layer": layer, "quantity": quantity, "value": value, "tokens": 10}
                    )
    return pd.DataFrame(rows)


def outcome(claim, table):
    return decide(claim, RightThenWrong().evidence(claim, table)).outcome


def test_what_chance_and_random_weights_give_is_no_finding():
    assert outcome(SPOILT, planted(0.08, 0.0)) == "supported"
    assert outcome(SPOILT, planted(0.0, 0.0)) == "contradicted"
    assert outcome(SPOILT, planted(0.08, 0.08)) != "supported"
    assert outcome(RESTORED, planted(0.08, 0.0)) == "supported"
    assert outcome(RESTORED, planted(0.08, 0.0, restored=0.1)) == "contradicted"
    assert outcome(RESTORED, planted(0.08, 0.0, returned=0.9)) != "supported", "late drops undo as much at random"
    assert outcome(SPOIL_MORE, planted(0.08, 0.0)) == "contradicted"
    assert outcome(SPOIL_MORE, planted(0.08, 0.0, repaired=0.1)) == "contradicted"
    assert outcome(SPOIL_MORE, planted(0.08, 0.0, repaired=0.03)) == "supported"
    few = planted(0.08, 0.0)
    assert outcome(RESTORED, few.assign(tokens=1)) == "undecided"


def test_late_and_middle_layers_are_apart_and_the_last_is_neither():
    for n_layers in (4, 6, 12, 30, 48):
        both = [*late(n_layers), *some_of_middle(n_layers)]
        assert len(both) == len(set(both))
        assert n_layers - 1 not in both


def test_the_figure_and_the_sentence(corpus):
    result = right_then_wrong(tiny.fresh("gpt2", "fold"), corpus, untrained=0)
    assert len(result.figure().layout.meta["panels"]) == 4
    assert "This claim needs a model of four layers or more" in result.finding()
