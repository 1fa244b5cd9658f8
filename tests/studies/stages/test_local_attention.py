"""The study of local attention: queries weigh the same, and the null lies where uniform attention would."""

import numpy as np

from mechicl.corpora import load_corpus
from mechicl.studies import local_attention
from tests import tiny

TEXTS = ["Review good film and a long sentence", "Question Answer Type of a Person in the World", "abc"]


def test_layers_heads_and_windows():
    corpus = load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)
    result = local_attention(tiny.model("gpt2"), corpus, windows=(1, 2, 5, 8))
    assert len(result.table) == len(TEXTS) * 3 * 4
    summary = result.summary().set_index(["metric", "layer"])
    assert summary["mean"].between(0, 1).all()
    assert summary.loc[("mass_8", 0), "n"] < summary.loc[("mass_1", 0), "n"]  # "abc" has no 8 previous tokens
    longer = np.array([summary.loc[(f"mass_{k}", 0), "mean"] for k in (1, 2)])
    assert longer[0] < longer[1]
    assert "Position 0 receives" in result.finding()
    assert len(result.figure().data) > 8
    paper = local_attention(tiny.model("gpt2"), corpus, protocol="paper")
    assert set(paper.summary()["metric"]) == {"pooled"}
    assert paper.figure().data
