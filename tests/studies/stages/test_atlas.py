"""The atlas: one pass for all signatures equals each alone."""

import numpy as np
import pandas as pd
import pytest

from mechicl import information_flow, layer_lesions, logit_lens, stages_atlas
from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.results import Cells, Result
from mechicl.studies import deep_layers, local_attention, norms
from mechicl.studies.stages.atlas import Atlas, compare_atlases
from mechicl.studies.stages.atlas_figure import families, on_common_depth, on_texts
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
        "MLP norm": norms(model, corpus).summary().query("metric == 'mlp_median'"),
    }
    for signature, expected in alone.items():
        np.testing.assert_allclose(summary[signature], expected["mean"], rtol=1e-4, atol=1e-5, err_msg=signature)
    assert "feature engineering" in result.details()[0]
    both = compare_atlases([result, stages_atlas(tiny.fresh("llama", "fold"), corpus)])
    assert both.summary()["model"].nunique() == 2
    shown = [trace.name for trace in both.figure().data]
    assert shown.count("lens KL") == 2
    assert both.figure().layout.meta["panels"][0].startswith("mean and range of 2 models")
    assert result.figure().layout.meta["panels"][0] == "tiny-gpt2, early stages"
    assert "prediction neurons" not in shown  # of which these models have none


def test_signatures_are_averaged_on_relative_depth_each_on_its_own_scale():
    def signature(*means):
        return pd.DataFrame({"depth": np.linspace(0, 1, len(means)), "mean": means})

    curves = on_common_depth([signature(0, 4, 2), signature(30, 10), signature(5, 5, 5), signature()])
    assert len(curves) == 2, "one that is flat, and one that is absent, have no scale"
    np.testing.assert_allclose(curves[:, [0, 25, 50, 100]], [[0, 0.5, 1, 0.5], [1, 0.75, 0.5, 0]])


def test_families_are_told_by_what_names_begin_with():
    assert families(["gpt2", "EleutherAI/pythia-70m", "gpt2-xl", "pythia-160m", "gpt-neo-125m", "7b"]) == {
        "gpt2": ["gpt2", "gpt2-xl"], "pythia": ["EleutherAI/pythia-70m", "pythia-160m"], "gpt-neo": ["gpt-neo-125m"],
        "7b": ["7b"],
    }  # fmt: skip


def test_several_texts_are_not_several_models():
    models = [{"name": "a on x", "model": "a"}, {"name": "a on y", "model": "a"}, {"name": "b"}]
    result = Result(Atlas(), pd.DataFrame({"model": ["a on x", "a on y", "b"]}), {"model": models})
    assert on_texts(result) == {"a": ["a on x", "a on y"], "b": ["b"]}


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
    assert "of S_wp, the gathering in label words" in " ".join(both.details())
    assert {trace.name for trace in both.figure().data} >= {"S_wp", "AUCROC", "drop KL"}
    with pytest.raises(InputError, match="results of"):
        in_context_atlas(flow, flow, deep)
    with pytest.raises(InputError, match="different models"):
        in_context_atlas(stages_atlas(tiny.model("llama"), corpus), flow, deep)
