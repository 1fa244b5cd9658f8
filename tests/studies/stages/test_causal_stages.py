"""Parts of a band of depth silenced: the same as by hand, and planted neurons are told from their controls."""

import numpy as np
import pytest
import torch

from mechicl import metrics
from mechicl.claims import decide
from mechicl.corpora import load_corpus
from mechicl.studies import causal_stages
from mechicl.studies.stages.causal_stages import PREDICT, controls
from tests import tiny

WORDS = ["good", "bad", "film", "World", "Sports", "Question", "Answer", "Happy", "Sad"]


@pytest.fixture(scope="module")
def corpus():
    draw = np.random.default_rng(0)
    texts = [" ".join(WORDS[i] for i in draw.integers(0, len(WORDS), 12)) for _ in range(8)]
    return load_corpus(tiny.tokenizer(), texts, n_ctx=24, packing="documents", prepend_bos=True)


@pytest.fixture(scope="module")
def planted():
    """Ten neurons of the last layer write ten tokens, and as much as others do."""
    model = tiny.fresh("gpt2", "fold")
    W_U, W_out = model.unembed.W_U.data, model.blocks[2].mlp.W_out.data
    W_U[5], W_U[:, :10] = 0, 0
    W_U[5, :10] = 3
    W_out[:10] = W_out.norm(dim=1).mean() * torch.eye(len(W_U))[5]
    return model


@pytest.fixture(scope="module")
def result(planted, corpus):
    return causal_stages(planted, corpus, bands=3, draws=3)


def test_measures_are_those_of_hooks_by_hand(planted, result, corpus):
    tokens = corpus.tokens[1:2, : corpus.lengths[1]]
    with torch.no_grad():
        base = planted(tokens, prepend_bos=False)
        for kind, name in (("attention", "attn_out"), ("MLPs", "mlp_out")):
            rest = lambda value, hook: torch.cat([value[:, :1], 0 * value[:, 1:]], 1)  # noqa: E731
            logits = planted.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=[(f"blocks.1.hook_{name}", rest)])
            row = result.table.query(f"kind == '{kind}' and band == 1 and how == 'zero' and sequence == 1").iloc[0]
            assert row["kl"] == pytest.approx(float(metrics.kl_divergence(base, logits)[0, 1:].mean()), rel=1e-4)
            entropy = metrics.entropy(logits, unit="bits")[0, 1:].mean()
            assert row["entropy"] == pytest.approx(float(entropy), rel=1e-5)


def test_neurons_that_write_tokens_are_told_from_others_that_write_as_much(result, corpus):
    found = {one.claim.id: one for one in result.claims}["prediction-neurons-decide"]
    assert found.note.startswith("10 prediction neurons of layer 2")
    assert found.n == {"documents": 8}
    assert np.isfinite(found.low)
    plain = causal_stages(tiny.fresh("gpt2", "fold"), corpus, bands=3, draws=3)
    assert all(one.outcome != "supported" for one in plain.claims)
    assert set(plain.table["kind"]) >= {"attention", "MLPs"}
    assert len(result.figure().layout.meta["panels"]) == 6
    assert set(result.summary()["of"]) == {"itself", "control"}


def test_controls_that_write_much_less_are_none(result):
    """Where a kind holds the largest writers of a layer, any other neurons would do less when ablated."""
    table = result.table.copy()
    table.loc[table["draw"] >= 0, "written"] *= 0.5
    found = decide(PREDICT, result.study.evidence(PREDICT, table))
    assert found.outcome == "undecided"
    assert "Control neurons write only 5" in found.reason


def test_controls_are_others_of_the_layer_that_write_as_much():
    draw = np.random.default_rng(0)
    written = draw.gamma(2, size=(3, 200))
    free = np.ones((3, 200), dtype=bool)
    places = [(1, int(i)) for i in np.argsort(written[1])[::8]]
    for layer, neuron in places:
        free[layer, neuron] = False
    one, other = (controls(places, written, free, np.random.default_rng(seed)) for seed in (0, 1))
    assert len(set(one)) == len(places)
    assert one != other
    assert not set(one) & set(places)
    assert {layer for layer, _ in one} == {1}
    norms = [np.mean([written[place] for place in chosen]) for chosen in (places, one)]
    assert norms[1] == pytest.approx(norms[0], rel=0.1)
    assert np.mean(written[1]) == pytest.approx(norms[0], rel=0.2)
    assert controls(places, written, np.zeros_like(free), np.random.default_rng(0)) == []
