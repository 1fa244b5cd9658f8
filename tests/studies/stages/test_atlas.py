"""The atlas: one pass for all signatures equals each alone, and boundaries follow their rules."""

import numpy as np
import pandas as pd
import pytest

from mechicl import information_flow, layer_lesions, logit_lens, stages_atlas
from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.results import Cells, Result
from mechicl.studies import deep_layers, local_attention, norms
from mechicl.studies.stages.atlas import Atlas, compare_atlases
from mechicl.studies.stages.boundaries import stage_boundaries
from mechicl.studies.stages.in_context_atlas import in_context_atlas
from tests import tiny
from tests.random_prompts import random_prompts

TEXTS = ["Review good film and a long sentence", "Question Answer Type of a Person in the World"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)


def test_signatures_are_those_of_the_single_studies(corpus, tmp_path):
    model = tiny.fresh("gpt2", "fold")
    result = Atlas().run(model, corpus, cells=Cells(tmp_path))
    summary = result.summary().set_index(["metric", "layer"])["mean"]
    drops = layer_lesions(model, corpus, kinds=("drop",), positions=("all",), untrained=0).summary()
    lens = logit_lens(model, corpus, untrained=0).summary()
    alone = {
        "drop KL": drops.query("metric == 'kl'"),
        "local attention": local_attention(model, corpus).summary().query("metric == 'mass_5'"),
        "lens KL": lens.query("metric == 'kl' and lens == 'corrected'"),
        "lens entropy": lens.query("metric == 'entropy' and lens == 'corrected'"),
        "MLP norm": norms(model, corpus).summary().query("metric == 'mlp_norm'"),
    }
    for signature, expected in alone.items():
        np.testing.assert_allclose(summary[signature], expected["mean"], rtol=1e-4, atol=1e-5, err_msg=signature)
    assert "feature engineering" in result.finding()
    both = compare_atlases([result, stages_atlas(tiny.fresh("llama", "fold"), corpus)])
    assert both.summary()["model"].nunique() == 2
    shown = [trace.name for trace in both.figure().data]
    assert shown.count("lens KL") == 2
    assert "prediction neurons" not in shown  # of which these models have none


def curves(local, lens, norm, prediction=None, suppression=None, d_mlp=100):
    """An atlas of two equal sequences."""
    rows = [
        {"signature": name, "sequence": sequence, "layer": layer, "value": value, "weight": 10.0}
        for name, values in (("local attention", local), ("lens KL", lens), ("MLP norm", norm))
        for sequence in (0, 1)
        for layer, value in enumerate(values)
    ]
    for name, values in (("prediction neurons", prediction), ("suppression neurons", suppression)):
        for layer, value in enumerate(values or [0.0] * len(local)):
            rows.append({"signature": name, "sequence": -1, "layer": layer, "value": value, "weight": d_mlp})
    return pd.DataFrame(rows)


def test_boundaries_by_text():
    table = curves([0.1, 0.8, 0.6, 0.1, 0.1, 0.1], [9, 8, 8, 8, 5, 3, 0], [1, 1, 1, 1, 1, 5])
    found = stage_boundaries(table)
    assert found["layer"].tolist() == [3, 5, 5]
    assert found["by"].tolist() == ["local attention", "lens KL", "MLP norm"]
    assert found["overlaps"].tolist() == ["", "", "prediction ensembling"]
    assert (found["low"] == found["layer"]).all()


def test_boundaries_by_neurons():
    local, lens = [0.8, 0.6, 0.1, 0.1, 0.1, 0.1], [9, 8, 8, 8, 5, 3, 0]
    table = curves(local, lens, [1] * 6, [0, 0, 0.01, 0.2, 0.3, 0.1], [0, 0, 0, 0.01, 0.1, 0.4])
    found = stage_boundaries(table)
    assert found["layer"].tolist() == [2, 3, 5]
    assert found["by"].tolist()[1:] == ["prediction neurons", "suppression neurons"]
    assert found["overlaps"].tolist() == ["", "", ""]


def test_one_early_neuron_is_no_stage():
    """Layer 0 of the shipped model has a single prediction neuron, layer 2 a single suppression neuron."""
    local, lens = [0.2, 0.34, 0.2, 0.2, 0.2, 0.2], [4, 2, 1, 0.3, 0.1, 0.1, 0]
    table = curves(local, lens, [1] * 6, [0.002, 0, 0, 0, 0.006, 0.018], [0, 0, 0.002, 0, 0, 0.03], d_mlp=512)
    found = stage_boundaries(table)
    assert found["layer"].tolist() == [2, 4, 5]
    assert set(found["overlaps"]) == {""}


def test_what_cannot_be_told_apart_is_said_and_nothing_is_moved():
    local, lens = [0.1, 0.1, 0.1, 0.1, 0.8, 0.1], [9, 8, 8, 8, 5, 3, 0]
    table = curves(local, lens, [1] * 6, [0, 0.2, 0.3, 0.3, 0.3, 0.3], [0, 0, 0, 0.01, 0.1, 0.1])
    found = stage_boundaries(table)
    assert found["layer"].tolist() == [5, 1, 6]
    assert found["overlaps"].tolist() == ["", "detokenization", ""]
    rows = table.assign(model="m")
    drops = [{"model": "m", "signature": "drop KL", "sequence": s, "layer": i, "value": 1.0, "weight": 1.0}
             for s in (0, 1) for i in range(6)]  # fmt: skip
    told = Result(Atlas(), pd.concat([rows, pd.DataFrame(drops)], ignore_index=True), {}).finding()
    assert "not separable from detokenization" in told
    assert "no calibration" in told


def test_both_papers_on_one_atlas(corpus):
    model, prompts = tiny.model("gpt2"), random_prompts(6, shots=2)
    flow, deep = information_flow(model, prompts), deep_layers(model, prompts)
    both = in_context_atlas(stages_atlas(model, corpus), flow, deep)
    found = both.summary().set_index(["metric", "layer"])["mean"]
    shares = flow.summary()
    for metric in ("S_wp", "S_pq"):
        expected = shares[shares["metric"] == metric].groupby("layer")["mean"].mean()
        np.testing.assert_allclose(found[metric], expected)
    assert {"AUCROC", "R"} <= set(both.summary()["metric"])
    assert "of S_wp, the gathering in label words" in both.finding()
    assert {trace.name for trace in both.figure().data} >= {"S_wp", "AUCROC", "drop KL"}
    with pytest.raises(InputError, match="results of"):
        in_context_atlas(flow, flow, deep)
    with pytest.raises(InputError, match="different models"):
        in_context_atlas(stages_atlas(tiny.model("llama"), corpus), flow, deep)
