"""Neurons held at a value: the same as by hand, and an entropy neuron that was made moves entropy as it must."""

import numpy as np
import pytest
import torch

from mechicl import metrics
from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.patches import FixNeurons
from mechicl.probes import LogitLens
from mechicl.studies import entropy_neurons
from tests import tiny

TEXTS = ["Review good film and so", "Question Answer Type of a Person"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=24, packing="documents", prepend_bos=True)


@pytest.fixture(scope="module")
def model():
    """Its neuron 2.4 writes a long vector in a direction that the unembedding hardly reads."""
    model = tiny.fresh("gpt2", "fold")
    model.unembed.W_U.data[5] *= 1e-3
    model.blocks[2].mlp.W_out.data[4] = 0
    model.blocks[2].mlp.W_out.data[4, 5] = 50.0
    return model


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_a_neuron_at_0_is_a_neuron_that_writes_nothing(family, corpus):
    silent = tiny.fresh(family)
    for layer, neuron in ((0, 3), (2, 1)):
        silent.blocks[layer].mlp.W_out.data[neuron] = 0
    probe = LogitLens()
    expected = run(silent, corpus, [probe])[probe].quantities
    patch = FixNeurons(((0, 3), (2, 1)))
    ours = run(tiny.model(family), corpus, [probe], [patch])[probe].quantities
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_measures_are_those_of_hooks_by_hand(model, corpus):
    result = entropy_neurons(model, corpus, neurons=1, controls=1, values=(0, 3))
    part = result.table.query("kind == 'entropy' and held == 3 and sequence == 1").iloc[0]
    assert (part["layer"], part["neuron"]) == (2, 4)
    tokens = corpus.tokens[1:2, : corpus.lengths[1]]

    def hold(post, hook):
        post = post.clone()
        post[..., 4] = 3
        return post

    with torch.no_grad():
        base = model(tokens, prepend_bos=False)
        logits = model.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=[("blocks.2.mlp.hook_post", hold)])
    assert part["entropy"] == pytest.approx(float(metrics.entropy(logits, unit="bits")[0, 1:].mean()), rel=1e-5)
    assert part["kl"] == pytest.approx(float(metrics.kl_divergence(base, logits)[0, 1:].mean()), rel=1e-4)
    loss = metrics.cross_entropy(logits[:, 1:-1], tokens[:, 2:]).mean()
    assert part["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_an_entropy_neuron_moves_entropy_and_its_controls_do_not(model, corpus):
    result = entropy_neurons(model, corpus, neurons=1, controls=2, values=(0, 2, 6))
    summary = result.summary().query("layer < 0").set_index(["kind", "metric", "held"])["mean"].sort_index()
    assert summary["entropy", "length", 6] > 2
    assert summary["entropy", "entropy_difference", 6] > summary["entropy", "entropy_difference", 2] > 0
    assert summary["entropy", "entropy_difference", 6] > abs(summary["control", "entropy_difference", 6])
    assert result.table.query("kind == 'control'")[["layer", "neuron"]].drop_duplicates().shape == (2, 2)
    assert "Entropy neurons: L2N4." in result.details()
    assert len(result.figure().layout.meta["panels"]) == 4
    np.testing.assert_allclose(result.table["base_entropy"].groupby(result.table["sequence"]).std(), 0, atol=1e-6)


def test_what_is_not_there_is_refused(corpus):
    model = tiny.model("gpt2")
    with pytest.raises(InputError, match="no neuron"):
        FixNeurons(()).hooks(model, corpus.batch())
    with pytest.raises(InputError, match=r"\(9, 0\)"):
        FixNeurons(((9, 0),)).hooks(model, corpus.batch())
    with pytest.raises(InputError, match="neurons is 0; give a whole number from 1 on"):
        entropy_neurons(model, corpus, neurons=0)


def test_small_models_are_said_to_lack_what_the_bound_asks(corpus):
    found = entropy_neurons(tiny.fresh("llama", "fold"), corpus, neurons=2, controls=1, values=(1,))
    assert "2 of 2 above the variance of 0.001" in " ".join(found.details())
