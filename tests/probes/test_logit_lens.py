"""The lens at the last point is the model; the authors' lens is not."""

import pytest
import torch

from mechicl import metrics
from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.probes import LogitLens
from mechicl.probes.logit_lens import QUANTITIES
from tests import tiny
from tests.random_prompts import random_prompts

AT = {name: i for i, name in enumerate(QUANTITIES)}


@pytest.fixture(scope="module")
def corpus():
    texts = ["Review good film", "Question Answer Type of a Person in the World"]
    return load_corpus(tiny.tokenizer(), texts, n_ctx=40, packing="documents", prepend_bos=True)


@pytest.mark.parametrize("family", tiny.families)
def test_the_last_point_is_the_model(family, corpus):
    model = tiny.model(family)
    sums = run(model, corpus, [probe := LogitLens()])[probe]
    counts = probe.counts(corpus.lengths)
    for quantity in ("kl", "kl_reverse", "js_divergence"):
        assert sums[:, -1, AT[quantity]].abs().max() < 1e-4
    for quantity in ("agreement", "reciprocal_rank", "top_k_overlap", "cosine"):
        torch.testing.assert_close(sums[:, -1, AT[quantity]], counts[:, 0].float(), atol=1e-4, rtol=1e-4)
    for row, length in enumerate(corpus.lengths):
        tokens = corpus.tokens[row : row + 1, :length]
        logits = model(tokens)[:, 1:]
        entropy = metrics.entropy(logits, unit="bits").sum()
        torch.testing.assert_close(sums[row, -1, AT["entropy"]], entropy, atol=1e-3, rtol=1e-4)
        loss = metrics.cross_entropy(logits[:, :-1], tokens[:, 2:]).sum()
        torch.testing.assert_close(sums[row, -1, AT["loss"]], loss, atol=1e-3, rtol=1e-4)


def test_points_are_residuals_under_the_final_norm(corpus):
    model = tiny.model("gpt2")
    sums = run(model, corpus, [probe := LogitLens()])[probe]
    tokens = corpus.tokens[1:]
    _, cache = model.run_with_cache(tokens)
    for layer in range(3):
        logits = hooked(model).lens(cache[f"blocks.{layer}.hook_resid_pre"][:, 1:])
        expected = metrics.kl_divergence(model(tokens)[:, 1:], logits).sum()
        torch.testing.assert_close(sums[1, layer, AT["kl"]], expected, atol=1e-3, rtol=1e-4)


def test_the_authors_lens_is_another_at_the_last_point(corpus):
    model = tiny.fresh("gpt2", "fold")
    sums = run(model, corpus, [probe := LogitLens("authors")])[probe]
    assert (sums[:, -1, AT["kl"]] > 1e-3).all()  # b_U is missing


def test_in_prompts_the_lens_reads_q():
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    sums = run(model, prompts, [probe := LogitLens()])[probe]
    assert sums.shape == (3, 4, len(QUANTITIES))
    assert (sums[..., AT["loss"]] == 0).all()
    assert (sums[:, -1, AT["agreement"]] == 1).all()


def test_an_unknown_lens_is_refused():
    with pytest.raises(InputError, match="lens is"):
        LogitLens("tuned")
