"""CKA of layers: unbiased, streamed by minibatch, and blocks that are more than nearness."""

import numpy as np
import pytest
import torch

from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.metrics import cka_matrix
from mechicl.probes import LastResidual
from mechicl.studies import cka
from mechicl.studies.drawing import where
from mechicl.studies.stages.blocks import best_blocks, by_distance
from mechicl.studies.stages.cka import Cka, largest_leverage
from tests import tiny


@pytest.fixture(scope="module")
def corpus():
    generator = np.random.default_rng(0)
    words = ["Review", "good", "bad", "film", "Question", "Person", "World", "Sports", "Happy", "Sad"]
    texts = [" ".join(generator.choice(words, 6)) + f" {i}" for i in range(21)]
    return load_corpus(tiny.tokenizer(), texts, n_ctx=12, packing="documents", prepend_bos=True)


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_last_residuals_are_the_models_own(corpus, family):
    model, probe = tiny.model(family), LastResidual()
    found = run(model, corpus, [probe], batch_size=4)[probe].values
    assert found.shape == (21, tiny.N_LAYERS + 1, tiny.D_MODEL)
    for row in (0, 20):
        _, cache = model.run_with_cache(corpus.tokens[row : row + 1, : corpus.lengths[row]])
        for layer in range(tiny.N_LAYERS):
            torch.testing.assert_close(found[row, layer], cache["resid_pre", layer][0, -1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[row, -1], cache["resid_post", tiny.N_LAYERS - 1][0, -1], atol=1e-5, rtol=1e-4)


def test_one_minibatch_is_the_cka_of_its_last_tokens(corpus):
    model, probe = tiny.model("gpt2"), LastResidual()
    last = run(model, corpus, [probe])[probe].values.transpose(0, 1)
    for protocol in ("paper", "corrected"):
        result = cka(model, corpus, minibatch=21, protocol=protocol, untrained=2)
        unit = torch.nn.functional.normalize(last.double(), dim=-1)
        for kind, vectors in {"unit norm": unit, "raw": last}.items() if protocol == "corrected" else [("raw", last)]:
            found = where(result.summary(), residuals=kind)["mean"].to_numpy().reshape(4, 4)
            np.testing.assert_allclose(found, cka_matrix(vectors).numpy(), atol=1e-6)
            np.testing.assert_allclose(np.diagonal(found), 1)
        assert "21 sequences in 1 minibatch)" in " ".join(result.details())


def test_hsic_is_averaged_before_it_is_divided(corpus):
    result = cka(tiny.model("gpt2"), corpus, minibatch=7, untrained=0)
    hsic = where(result.table, residuals="raw")["hsic"].to_numpy().reshape(3, 4, 4).mean(0)
    found = where(result.summary(), residuals="raw")
    assert found["mean"].to_numpy().reshape(4, 4)[0, 3] == pytest.approx(hsic[0, 3] / np.sqrt(hsic[0, 0] * hsic[3, 3]))
    assert set(found["n"]) == {3}
    assert (found["low"] <= found["mean"] + 1e-12).all()
    assert (found["mean"] <= found["high"] + 1e-12).all()
    assert "minibatches" in " ".join(result.details())
    assert result.figure().data


def test_too_few_sequences_are_refused_or_left_out(corpus):
    assert set(cka(tiny.model("gpt2"), corpus, minibatch=10, untrained=0).table["sequence"]) == {
        0,
        10,
    }  # the last is alone
    with pytest.raises(InputError, match="4 sequences"):
        cka(tiny.model("gpt2"), corpus[:3])
    with pytest.raises(InputError, match="minibatch is"):
        Cka(minibatch=3)


def test_planted_blocks_are_found_and_mere_nearness_is_not_taken_for_them():
    blocky = np.kron(np.eye(3), np.ones((3, 3))) * 0.7 + 0.3
    found = best_blocks(blocky, 3)
    assert found.starts == (0, 3, 6)
    assert found.explained == pytest.approx(1)
    assert best_blocks(by_distance(blocky[None])[0], 3).explained < 0.7
    near = 1 - np.abs(np.subtract.outer(np.arange(9), np.arange(9))) / 9
    assert best_blocks(near, 3).explained == pytest.approx(best_blocks(by_distance(near[None])[0], 3).explained)


def test_ends_that_are_all_alike_are_refused():
    corpus = load_corpus(
        tiny.tokenizer(), [f"film {i}{'x' * 12}" for i in range(8)], n_ctx=8, packing="documents", prepend_bos=True
    )
    with pytest.raises(InputError, match="before layer 0"):
        cka(tiny.model("llama"), corpus, untrained=0).summary()


def test_two_long_sequences_decide_raw_similarities_and_no_others():
    vectors = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0)).double()
    vectors[0, :2] = 30 * vectors[0, :1]
    assert largest_leverage(vectors).item() > 0.45  # of at most one half
    assert largest_leverage(torch.nn.functional.normalize(vectors, dim=-1)).item() < 0.1
