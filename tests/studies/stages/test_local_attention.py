"""The study of local attention: queries weigh the same, and the null lies where uniform attention would."""

import numpy as np
import pandas as pd

from mechicl.corpora import load_corpus
from mechicl.studies import LocalAttentionStudy, local_attention
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
    assert "Position 0 receives" in " ".join(result.details())
    assert len(result.figure().data) > 8
    assert "heatmap" not in {trace.type for trace in result.figure().data}
    by_head = local_attention(tiny.model("gpt2"), corpus, windows=(1, 2, 5, 8), by_head=True).figure()
    previous, *_ = (trace for trace in by_head.data if trace.type == "heatmap")
    rows = result.table.assign(mass=result.table["mass_1"] * result.table["queries_1"])
    sums = rows[(rows["layer"] == 1) & (rows["head"] == 2)][["mass", "queries_1"]].sum()
    np.testing.assert_allclose(np.array(previous.z)[1, 2], sums["mass"] / sums["queries_1"])
    paper = local_attention(tiny.model("gpt2"), corpus, protocol="paper")
    assert set(paper.summary()["metric"]) == {"pooled"}
    assert paper.figure().data


def test_the_authors_leave_out_documents_that_are_nan_or_zero_and_draw_their_own_band():
    study, layers = LocalAttentionStudy("paper"), range(3)
    pooled = {0: [0.1, 0.2, 0.3], 1: [0.3, 0.2, 0.1], 2: [np.nan] * 3, 3: [0.0] * 3, 4: [0.0, 0.4, 0.0]}
    rows = [(sequence, layer, values[layer]) for sequence, values in pooled.items() for layer in layers]
    table = pd.DataFrame(rows, columns=["sequence", "layer", "pooled"]).assign(model="m", head=0)
    summary = study.summary(table).set_index("layer")
    kept = np.array([pooled[0], pooled[1], pooled[4]])
    np.testing.assert_allclose(summary["mean"], kept.mean(0))
    np.testing.assert_allclose(summary["high"] - summary["mean"], kept.std(0) / 10)
    assert (summary["n"] == 3).all()
