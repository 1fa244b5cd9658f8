"""The lens study: its last point is the model, and both lenses stand side by side."""

import pytest

from mechicl import logit_lens
from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.metrics.readout import kept_bytes
from mechicl.models import hooked
from mechicl.studies import Atlas, LensStudy
from tests import tiny

TEXTS = ["Review good film and a long sentence", "Question Answer Type of a Person in the World"]


def test_both_lenses_and_their_points():
    corpus = load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)
    result = logit_lens(tiny.fresh("gpt2", "fold"), corpus, untrained=0, authors_lens=True)
    means = result.summary().set_index(["lens", "metric", "point"])["mean"]
    assert means["corrected", "kl", 3] == pytest.approx(0, abs=1e-5)
    assert means["corrected", "agreement", 3] == 1
    assert means["authors", "kl", 3] > 1e-3
    assert len(result.table) == 2 * len(TEXTS) * 4
    assert "the same in untrained models, was not measured" in result.finding()
    assert result.figure().data
    paper = logit_lens(tiny.fresh("gpt2", "fold"), corpus, protocol="paper")
    assert set(paper.table["lens"]) == {"authors"}
    assert {one.outcome for one in paper.claims} == {"undecided"}


def test_the_authors_lens_is_left_out_unless_asked_for_and_refused_where_it_has_no_norm():
    corpus = load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)
    assert set(logit_lens(tiny.fresh("gpt2", "fold"), corpus, untrained=0).table["lens"]) == {"corrected"}
    with pytest.raises(InputError, match="applies no norm at all to tiny-llama"):
        logit_lens(tiny.fresh("llama", "fold"), corpus, untrained=0, authors_lens=True)
    assert set(logit_lens(tiny.fresh("llama", "fold"), corpus, protocol="paper").table["lens"]) == {"authors"}
    with pytest.raises(InputError, match="has no protocol 'paper'"):
        Atlas("paper")


def test_the_memory_announced_holds_the_residuals_and_tiles_of_the_vocabulary():
    net = hooked(tiny.model("gpt2"))
    study, tokens = LensStudy(untrained=0), 100
    residuals = 2 * tokens * 4 * tiny.D_MODEL * 4
    held = study.held_bytes(net, tokens)
    assert held == residuals + kept_bytes(5, tiny.D_VOCAB, net.device)
    corpus = load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)
    assert study.estimate(net, corpus, batch_size=1).memory > study.held_bytes(net, 10)
    assert (study.estimate(net, corpus).twins, LensStudy().estimate(net, corpus).twins > 0) == (0, True)
