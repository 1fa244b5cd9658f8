"""Published values stand beside measured ones of the same model, and only there."""

import pandas as pd
import pytest

from mechicl.results import Result
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.stages.neurons import NeuronsStudy
from mechicl.studies.stages.published import against_published
from mechicl.studies.stages.published.values import ATTENTION, ING, PREDICTION, SUPPRESSION
from mechicl.studies.stages.voting import Voting
from mechicl.studies.stages.word_merging import WordMerging


def gpt2s_neurons() -> dict[str, object]:
    """A prediction neuron in each layer."""
    moments = {"kurtosis": 11.0, "skewness": 1.0, "variance": 0.0}
    return {"model": "gpt2", "layer": range(12), "neuron": 0, "norm": 1.0, "in_norm": 1.0, "rho": 0.0} | moments


def test_gpt2s_neurons_are_compared_layer_by_layer():
    rows = gpt2s_neurons()
    found = against_published([Result(NeuronsStudy(), pd.DataFrame(rows), {})])
    prediction = found[found["quantity"] == "prediction neurons"]
    assert prediction["published"].tolist()[10] == "97"
    assert prediction["measured"].tolist() == ["1.000"] * 12
    other = pd.DataFrame(rows | {"model": "another"})
    found = against_published([Result(NeuronsStudy(), other, {})])
    assert not found["quantity"].eq("prediction neurons").any()


@pytest.mark.parametrize("model", ["gpt2", "pythia-410m-deduped"])
def test_agreement_in_the_middle_half(model):
    same = {"agreement": [0.1, 0.8, 0.9, 0.2]}
    rest = dict.fromkeys(("kl", "entropy", "base_entropy", "top_10_overlap", "loss", "base_loss", "correct"), 0.5)
    counts = {"base_correct": 0.5, "positions": 10, "targets": 9, "sequence": 0, "kind": "drop", "layer": range(4)}
    table = pd.DataFrame({"model": model, **same, **rest, **counts})
    rows = against_published([Result(Lesions(kinds=("drop",)), table, {})]).to_dict("records")
    assert rows[0]["measured"] == "0.850"
    assert ("replication" in rows[0]["published"]) == (model != "gpt2")
    if model != "gpt2":
        assert (rows[1]["place"], rows[1]["measured"]) == ("first and last eighth", "0.150")


def test_notebook_values_are_held_against_the_authors_protocol():
    rows = gpt2s_neurons()
    neurons = Result(NeuronsStudy(), pd.DataFrame(rows), {})
    assert against_published([neurons]).equals(against_published([neurons, neurons]))
    found = against_published([neurons]).set_index("quantity")
    assert found.loc["prediction neurons are densest", "published"] == "0.85"


def test_repeats_are_counted_in_the_latter_half():
    rest = dict.fromkeys(("kl", "agreement", "top_10_overlap", "loss", "base_loss", "correct"), 0.5)
    counts = {"base_correct": 0.5, "positions": 10, "targets": 9, "sequence": 0, "kind": "repeat 3"}
    # eight layers have six windows of three; those from layers 4 and 5 lie in the latter half
    table = pd.DataFrame(
        {"model": "m", "layer": range(6), "entropy": [1, 1, 1, 1, 0.5, 3], "base_entropy": 2.0, **rest, **counts}
    )
    found = against_published([Result(Lesions(kinds=("repeat",)), table, {})]).set_index("quantity")
    assert found.loc["repeat 3: windows that lower entropy", "measured"] == "1 of 2"


def test_every_published_curve_has_as_many_layers_as_its_model():
    layers = {"gpt2": 12, "gpt2-medium": 24, "gpt2-large": 36, "pythia-410m-deduped": 24, "pythia-1.4b-deduped": 24}
    assert {model: max(ATTENTION[model]) + 1 for model in layers} == layers
    assert {model: len(ATTENTION[model]) for model in layers} == layers
    assert (sum(PREDICTION["gpt2"].values()), sum(SUPPRESSION["gpt2"].values())) == (226, 136)


def single_probes(model: str, neurons: list[str]) -> pd.DataFrame:
    """A table of the voting study: each of these neurons right in every context, the model in half of them."""
    layer, neuron = zip(*(map(int, one.split(".")) for one in neurons), strict=True)
    facts = {"model": model, "sequence": 0, "contexts": 10, "matched_by": "stems", "k": -1, "effect": 0.1}
    single = pd.DataFrame({"what": "single probe", "layer": layer, "neuron": neuron, "kind": "suppression"})
    own = pd.DataFrame({"what": ["model's own prediction"], "layer": -1, "neuron": -1, "kind": ""})
    return pd.concat([single.assign(accuracy=1.0), own.assign(accuracy=0.5)]).assign(**facts)


def test_ing_neurons_stand_beside_those_of_the_papers_model_alone():
    study = Voting("paper")
    found = {}
    for model in ("gpt2-xl", "gpt2", "stanford-gpt2-medium-a"):
        ours = [*ING["gpt2-xl"][:31], "0.0"]
        result = Result(study, single_probes(model, ours), {"settings": study.settings()})
        found[model] = against_published([result]).set_index("quantity")["measured"].to_dict()
    assert found["gpt2"] == {}
    assert found["gpt2-xl"]['"-ing" neurons in common'] == "31 of 32"
    assert found["gpt2-xl"]["best single probe less the model itself"] == "+0.500"
    assert found["gpt2-xl"]["best single neuron"].startswith("suppression 46.4888")
    assert list(found["stanford-gpt2-medium-a"].values()) == ["0 of 15"]
    other = Result(
        Voting("paper", token_class="-ed"), single_probes("gpt2-xl", ours), {"settings": {"token_class": "-ed"}}
    )
    assert against_published([other]).empty


def test_the_authors_sub_joiner_head_has_a_rank_among_all():
    heads = pd.DataFrame({"layer": [1, 1, 0], "head": [6, 2, 3], "auroc": [0.8, 0.9, 0.7], "first_bias": 0.3})
    rest = {"mass": 0.5, "control": 0.1, "words": 25, "words_to_choose": 25, "sequence": 0, "pieces": 4, "cut": "heads"}
    table = heads.assign(score_to_choose=heads["auroc"], **rest)
    rows = against_published([Result(WordMerging(), table.assign(model="pythia-2.8b-deduped"), {})])
    assert rows["measured"].tolist() == ["rank 2 of 3, AUROC 0.80", "+0.30"]
    assert against_published([Result(WordMerging(), table.assign(model="gpt2"), {})]).empty


@pytest.mark.parametrize("model", ["stanford-gpt2-medium-a", "pythia-160m"])
def test_neurons_of_other_papers_are_looked_for_by_name(model):
    table = pd.DataFrame(
        {"model": model, "layer": range(24), "neuron": 945, "norm": 1.0, "in_norm": 1.0, "rho": 0.0, "kurtosis": 3.0,
         "skewness": 0.0, "variance": 1e-5}
    )  # fmt: skip
    rows = against_published([Result(NeuronsStudy(), table, {})]).set_index(["quantity", "place"])["measured"]
    if model == "pythia-160m":
        assert rows["entropy neuron"].tolist() == ["no"] * 3
    else:
        assert rows["entropy neuron"].to_dict() == {"23.945": "yes", "22.2882": "no"}
        assert rows["neurons of kurtosis above 10", "layer 20"] == "0"
