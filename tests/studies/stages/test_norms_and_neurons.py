"""Norms and neurons: single values, invariances, and the studies over them."""

import pytest
import torch

from mechicl.corpora import load_corpus
from mechicl.errors import InputError, NumericalError
from mechicl.hooks import run
from mechicl.mlp_neurons import classify, entropy_neurons, vocabulary_moments
from mechicl.models import hooked
from mechicl.probes.norms import Norms
from mechicl.results import Cells
from mechicl.studies import neurons, norms
from mechicl.studies.stages.neurons import NeuronsStudy
from tests import tiny

TEXTS = ["Review good film and a long sentence", "Question Answer Type of a Person in the World"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_norms_are_those_of_the_activations(family, corpus):
    model = tiny.model(family)
    reading = run(model, corpus, [probe := Norms()])[probe]
    row = int(corpus.lengths.argmin())
    _, cache = model.run_with_cache(corpus.tokens[row : row + 1, : corpus.lengths[row]])
    mlp = cache["blocks.1.hook_mlp_out"][0].norm(dim=-1)
    before, after = (cache[f"blocks.1.hook_resid_{which}"][0] for which in ("pre", "post"))
    expected = {
        "mlp_norm": mlp[1:].mean(),
        "mlp_median": mlp[1:].median(),
        "mlp_at_0": mlp[0],
        "mlp_ratio": (mlp / before.norm(dim=-1))[1:].mean(),
        "cosine": torch.cosine_similarity(before, after, dim=-1)[1:].mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(reading[name][row, 1], value, atol=1e-5, rtol=1e-5)


def test_a_text_of_one_token_has_no_mean_and_the_study_says_so(corpus):
    short = load_corpus(tiny.tokenizer(), ["a", TEXTS[0]], n_ctx=40, packing="documents", prepend_bos=False)
    table = run(tiny.model("gpt2"), short, [Norms()]).frame()
    nothing = table["positions"] == 0
    assert table.loc[nothing, "sequence"].unique().tolist() == [int(short.lengths.argmin())]
    assert table["mlp_norm"].isna().equals(nothing)
    assert table["mlp_median"].isna().equals(nothing)
    assert table["mlp_at_0"].notna().all()
    with pytest.raises(NumericalError, match=r"norm is nan at sequence 0.*leave that text out"):
        norms(tiny.model("gpt2"), short)


def test_the_studies(corpus):
    for protocol in ("paper", "corrected"):
        result = norms(tiny.model("gpt2"), corpus, protocol=protocol)
        assert "layer" in " ".join(result.details())
        assert result.figure().data
    result = neurons(tiny.fresh("llama", "fold"), kurtosis=2.5)
    summary = result.summary()
    assert result.details()[-1].startswith("Neurons: ")
    assert len(result.figure().data) == 14  # each kind; prediction, suppression: W_U rotated, four other thresholds
    net = hooked(tiny.fresh("llama", "fold"))
    moments = vocabulary_moments(net.W_U, [net.W_out(layer) for layer in range(3)])
    frame = classify(moments, kurtosis=2.5).frame()
    counts = summary.set_index(["metric", "layer"])["count"]
    for row in frame.itertuples():
        assert counts[row.kind, row.layer] == row.count


def test_other_thresholds_give_what_the_study_gives_at_them():
    model = tiny.fresh("llama", "fold")
    W_U, W_out = model.unembed.W_U.data, model.blocks[2].mlp.W_out.data
    W_U[:2] = 0.0  # two directions that few tokens share: two of them, and seven
    W_U[0, :2], W_U[1, 2:9] = 50.0, 50.0
    W_out[:8] = 0.0
    W_out[range(5), 0], W_out[range(5, 8), 1] = 1.0, -1.0
    result = neurons(model)
    summary = result.summary().set_index(["metric", "layer"])["mean"]
    (table,) = result.study.tables(result).values()
    own = table[table["kurtosis above"] == 10].set_index("claim")["effect"]
    assert own.tolist() == pytest.approx([one.effect for one in result.claims])
    at_5 = neurons(model, kurtosis=5)
    for kind in ("prediction", "suppression"):
        of_kind = at_5.summary().set_index(["metric", "layer"])["mean"]
        assert of_kind[kind].tolist() == summary[f"{kind}, above 5"].tolist()
        assert (summary[f"{kind}, above 5"] >= summary[f"{kind}, above 20"]).all()
    swept = table[table["kurtosis above"] == 5].set_index("claim")
    assert swept["effect"].tolist() == pytest.approx([one.effect for one in at_5.claims])
    assert swept["verdict"].tolist() == [one.outcome for one in at_5.claims]
    assert swept["effect"].abs().max() > 0
    for one, effect in zip(result.claims, own, strict=True):
        signs = table[table["claim"] == one.claim.sentence].set_index("kurtosis above")["effect"] * effect > 0
        kept = ", ".join(str(at) for at in signs.index[signs])
        assert f"keeps its sign at {f'kurtosis thresholds {kept}' if kept else 'no'}" in one.note


def test_a_threshold_changes_conclusions_alone(tmp_path):
    model = tiny.fresh("llama", "fold")
    NeuronsStudy().run(model, cells=Cells(tmp_path))
    files = sorted((tmp_path / "cells").iterdir())
    NeuronsStudy(kurtosis=5).run(model, cells=Cells(tmp_path))
    assert sorted((tmp_path / "cells").iterdir()) == files


def test_entropy_neurons_of_the_study_are_those_of_the_function():
    model = tiny.fresh("gpt2", "fold")
    model.unembed.W_U.data[5] *= 1e-3  # a direction that W_U hardly reads, into which a long neuron writes
    model.blocks[2].mlp.W_out.data[4] = 0
    model.blocks[2].mlp.W_out.data[4, 5] = 50.0
    net = hooked(model)
    moments = vocabulary_moments(net.W_U, [net.W_out(layer) for layer in range(3)])
    read = torch.stack([net.W_in(layer).norm(dim=0) for layer in range(3)])
    result = neurons(model)
    entropy = result.summary().query("metric == 'entropy'")
    found = entropy_neurons(moments, read**2 + moments.norm**2)
    assert (2, 4) in found
    assert entropy["count"].sum() == len(found)
    table = result.table.set_index(["layer", "neuron"])
    assert table["rho"].idxmax() == (2, 4)


def test_each_study_says_what_it_reads(corpus):
    with pytest.raises(InputError, match="weights alone"):
        NeuronsStudy().run(tiny.model("gpt2"), corpus)
