"""Published values stand beside measured ones of the same model, and only there."""

import pandas as pd
import pytest

from mechicl.results import Result
from mechicl.studies.stages import Lesions, NeuronsStudy
from mechicl.studies.stages.published import against_published


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
