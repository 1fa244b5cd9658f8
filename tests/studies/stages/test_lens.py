"""The lens study: its last point is the model, and both lenses stand side by side."""

import pytest

from mechicl import logit_lens
from mechicl.corpora import load_corpus
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
    assert "the same in untrained models was not measured" in result.finding()
    assert result.figure().data
    paper = logit_lens(tiny.fresh("gpt2", "fold"), corpus, protocol="paper")
    assert set(paper.table["lens"]) == {"authors"}
    assert {one.outcome for one in paper.claims} == {"undecided"}
