"""Published values stand beside measured ones of the same model, and only there."""

import pandas as pd
import pytest

from mechicl.results import Result
from mechicl.studies.stages import Lesions, NeuronsStudy
from mechicl.studies.stages.published import against_published


def test_gpt2s_neurons_are_compared_layer_by_layer():
    rows = {"model": "gpt2", "layer": range(12), "neuron": 0, "kurtosis": 11.0, "skewness": 1.0, "variance": 0.0}
    found = against_published([Result(NeuronsStudy(), pd.DataFrame(rows), {})])
    prediction = found[found["quantity"] == "prediction neurons"]
    assert prediction["published"].tolist()[10] == "97"
    assert prediction["measured"].tolist() == ["1.000"] * 12
    other = pd.DataFrame(rows | {"model": "another"})
    assert against_published([Result(NeuronsStudy(), other, {})]).empty


@pytest.mark.parametrize("model", ["gpt2", "pythia-410m-deduped"])
def test_agreement_in_the_middle_half(model):
    same = {"agreement": [0.1, 0.8, 0.9, 0.2]}
    rest = dict.fromkeys(("kl", "entropy", "base_entropy", "top_10_overlap", "loss", "base_loss", "correct"), 0.5)
    counts = {"base_correct": 0.5, "positions": 10, "targets": 9, "sequence": 0, "kind": "drop", "layer": range(4)}
    table = pd.DataFrame({"model": model, **same, **rest, **counts})
    (row,) = against_published([Result(Lesions(kinds=("drop",)), table, {})]).to_dict("records")
    assert row["measured"] == "0.850"
    assert ("replication" in row["published"]) == (model != "gpt2")
