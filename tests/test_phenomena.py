"""The shipped model shows what *Label Words are Anchors* describes, measured by mechicl's own studies."""

from __future__ import annotations

from typing import Any

import pytest

import mechicl as mi
from mechicl.studies.label_words.deep_layers import DeepLayers
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.pairs import REAL
from mechicl.studies.label_words.reweighting import Reweighting


@pytest.fixture(scope="module")
def model() -> Any:
    return mi.load_model("tiny-icl")


@pytest.fixture(scope="module", params=[2, 4])
def prompts(request: pytest.FixtureRequest, model: Any) -> list[Any]:
    task = mi.load_task(f"tiny-topics-{request.param}")
    return [task.prompts(model.tokenizer, samples=24, seed=seed) for seed in (42, 43)]


def test_information_gathers_in_label_words_and_is_read_there(model: Any, prompts: list[Any]) -> None:
    summary = InformationFlow(untrained=0).run(model, prompts).summary()
    share = summary.pivot(index="metric", columns="layer", values="mean")
    assert share.loc["S_wp", 0] > 0.6
    assert share.loc["S_pq", 0] < 0.3
    assert (share.loc["S_pq", 2:] > 0.8).all()


def test_isolation_hurts_only_label_words_in_the_first_layers(model: Any, prompts: list[Any]) -> None:
    summary = Isolation(n_layers=(2,), modes=("presoftmax",)).run(model, prompts).summary()
    loyalty = summary[summary["metric"] == "label_loyalty"].set_index(["isolated", "where"])["mean"]
    chance = 1 / len(prompts[0].class_names)
    assert loyalty["label words", "first"] < chance + 0.2
    for condition in (("label words", "last"), ("random tokens", "first"), ("random tokens", "last")):
        assert loyalty[condition] > 0.9


def test_deep_layers_attend_to_the_predicted_label(model: Any, prompts: list[Any]) -> None:
    summary = DeepLayers().run(model, prompts).summary()
    auroc = summary[(summary["metric"] == "AUCROC") & (summary["task"] == prompts[0].task)].set_index("layer")["mean"]
    assert auroc[0] < 0.75
    assert (auroc[2:4] > 0.8).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_the_claim_about_deep_layers_is_supported(model: Any, classes: int) -> None:
    task = mi.load_task(f"tiny-topics-{classes}")
    result = DeepLayers().run(
        model, [task.prompts(model.tokenizer, samples=24, seed=seed) for seed in (42, 43, 44, 45)]
    )
    assert [verdict.outcome for verdict in result.claims] == ["supported"]


def test_only_errors_can_be_diagnosed_and_wrong_labels_make_some(model: Any) -> None:
    """Wrong labels from the first topic to the second, and from the second to the third, confuse the first two."""
    study, task = ErrorDiagnosis(contexts=4, components=(10,)), mi.load_task("tiny-topics-4")
    right = study.run(model, study.prompts(task, model.tokenizer, samples=24))
    assert [verdict.outcome for verdict in right.claims] == ["undecided"]
    assert "confuses all pairs of classes alike" in right.finding()
    assert right.summary()["mean"].isna().all()
    biased, *others = (
        study.prompts(task, model.tokenizer, samples=64, seed=seed, shots=4, mislabelled=(3, 3, 0, 0))
        for seed in (42, 43, 44)
    )
    result = study.run(model, [biased, *others])
    assert [verdict.outcome for verdict in result.claims] == ["supported"]
    table = result.table[result.table["seed"] == 42]
    real = table[table["layer"] == REAL].set_index(["class_a", "class_b"])["value"]
    first, second, *_ = biased.class_names
    assert real.idxmin() == (first, second)
    assert real.min() < 0.85
    assert (real.drop((first, second)) > 0.9).all()


def test_reweighting_undoes_the_bias_of_wrong_labels(model: Any) -> None:
    """Three of four demonstrations of one topic carry the other's label word; beta is learned on four items each."""
    study, task = Reweighting("paper", lr=0.1, more_shots=0), mi.load_task("tiny-topics-2")
    biased = study.prompts(task, model.tokenizer, samples=24, seed=44, shots=4, mislabelled=(3, 0))
    summary = study.run(model, biased).summary()
    accuracy = summary[summary["metric"] == "accuracy"].set_index("method")["mean"]
    assert accuracy["vanilla"] < 0.7
    assert accuracy["re-weighted"] > 0.9


def test_the_claim_about_reweighting_needs_errors(model: Any) -> None:
    """The model makes none; three wrong labels of four for two classes make some, and re-weighting mends them."""
    study, task = Reweighting("paper", lr=0.1, epochs=8, per_class=2, more_shots=0), mi.load_task("tiny-topics-4")
    right = study.run(model, study.prompts(task, model.tokenizer, samples=12))
    assert {verdict.outcome for verdict in right.claims} == {"undecided"}
    assert "errs on 0% of prompts" in right.finding()
    biased = [
        study.prompts(task, model.tokenizer, samples=16, seed=seed, shots=4, mislabelled=(3, 3, 0, 0))
        for seed in (42, 43, 44)
    ]
    outcomes = {verdict.claim.id: verdict.outcome for verdict in study.run(model, biased).claims}
    assert outcomes["reweighting"] == "supported"
    assert outcomes["reweighting-biases"] == "undecided"  # not measured in this protocol
