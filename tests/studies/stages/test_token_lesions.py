"""Lesions token by token: groups are parts of the whole, and single tokens are those of the sweep."""

import numpy as np
import pytest
import torch

from mechicl import layer_lesions
from mechicl.corpora import load_corpus
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.patches import Drop, Swap
from mechicl.studies import token_lesions
from mechicl.studies.stages.token_lesions import SORTS, TokenLesions, token_groups
from tests import tiny

TEXTS = [
    "Review good film",
    "Question Answer and so Type of a Person",
    "Sports in the World are unseen, and Technology",
]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=24, packing="documents", prepend_bos=True)


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_groups_add_up_to_the_mean_of_all_tokens(corpus, family):
    model = tiny.model(family)
    table = token_lesions(model, corpus, batch_size=2).table
    drops = layer_lesions(model, corpus, kinds=("drop",), positions=("all",), untrained=0)
    whole = drops.summary().set_index(["metric", "layer"])["mean"]
    for by in SORTS:
        rows = table[table["by"] == by]
        for metric in ("kl", "agreement"):
            sums = (rows[metric] * rows["positions"]).groupby(rows["layer"]).sum()
            found = sums / rows.groupby("layer")["positions"].sum()
            np.testing.assert_allclose(found, [whole[metric, layer] for layer in found.index], rtol=1e-5, atol=1e-7)


def test_every_prediction_that_counts_is_in_one_group(corpus):
    compared = lesion_sweep(tiny.model("gpt2"), corpus.tokens, [Drop(0)], lengths=corpus.lengths, top_k=0)
    batch = corpus.batch()
    counted = batch.real & (torch.arange(batch.tokens.shape[1]) > 0)
    for groups in token_groups(compared, batch).values():
        assert torch.equal(sum(at.long() for at in groups.values()), counted.long())
    words = token_groups(compared, batch)["word"]
    assert words["inner token of a word"].any()
    assert (words["first token of a word"].sum() == words["last token of a word"].sum()) or bool(
        (corpus.lengths == 24).any()  # a word that is cut at the end has no last token
    )


def test_single_tokens_are_those_of_the_sweep(corpus):
    model = tiny.model("gpt2")
    result = token_lesions(model, corpus, kind="swap")
    compared = lesion_sweep(model, corpus.tokens, [Swap(0), Swap(1)], lengths=corpus.lengths, top_k=0)
    tokens = result.table[result.table["by"] == "token"]
    for layer in (0, 1):
        found = tokens[tokens["layer"] == layer]["kl"]
        np.testing.assert_allclose(found, compared.kl[layer, 0, 1 : corpus.lengths[0]], rtol=1e-4, atol=1e-6)
    assert tokens["group"].iloc[0] == f"1 {tiny.tokenizer().decode([int(corpus.tokens[0, 1])])!r}"
    assert "last token of a word" in " ".join(result.details())
    assert len(result.figure().data) == len(SORTS) + 1


def test_other_kinds_are_refused():
    with pytest.raises(InputError, match="swap moves whole layers"):
        TokenLesions(kind="swap", positions="bos")
    with pytest.raises(InputError, match="choose drop, swap, attention, mlp or replace"):
        TokenLesions(kind="repeat")
