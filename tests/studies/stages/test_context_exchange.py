"""Contexts exchanged: the same tokens at the same positions, and what moves where."""

import pandas as pd
import pytest

from mechicl import InputError
from mechicl.corpora import load_corpus
from mechicl.studies import context_exchange
from mechicl.studies.stages.context_exchange import exchanged, shares
from tests import tiny

TEXTS = ["Review good film", "Question Answer Type of a Person", "Sports in the World are Business and Technology"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=24, packing="documents", prepend_bos=True)


def test_the_second_half_keeps_its_tokens_and_its_places(corpus):
    sequences, triples = exchanged(corpus)
    assert sequences == [0, 1, 2]
    for place, index in enumerate(sequences):
        own, mixed, other = triples.tokens[3 * place : 3 * place + 3]
        length = int(triples.lengths[3 * place])
        half = length // 2
        assert own[:length].equal(corpus.tokens[index, :length])
        assert mixed[half:length].equal(own[half:length])
        assert mixed[0] == own[0]
        assert mixed[1:half].equal(other[1:half])
        assert not other[1:length].equal(own[1:length])


def test_what_moves_is_what_two_plain_runs_say(corpus):
    model = tiny.model("gpt2")
    table = context_exchange(model, corpus, untrained=0).table
    own, mixed, other = exchanged(corpus)[1].tokens[:3]
    length = int(exchanged(corpus)[1].lengths[0])
    runs = [model.run_with_cache(one[None, :length])[1] for one in (own, mixed, other)]
    half = length // 2
    differing = own[half:length] != other[half:length]
    for layer in range(3):
        for kind, site in (("residual_raw", "hook_resid_post"), ("attention_raw", "hook_attn_out")):
            first, after, another = (cache[f"blocks.{layer}.{site}"][0, half:length] for cache in runs)
            rows = table.query("sequence == 0 and layer == @layer").set_index("distance")
            moved, spread = ((first - one).square().sum(-1) for one in (after, another))
            assert rows.loc[0, f"{kind}_moved"] == pytest.approx(moved[0].item(), rel=1e-4, abs=1e-9)
            assert rows[f"{kind}_moved"].sum() == pytest.approx(moved.sum().item(), rel=1e-4)
            assert rows[f"{kind}_spread"].sum() == pytest.approx(spread[differing].sum().item(), rel=1e-4)
            assert rows["positions"].sum() == length - half
            assert rows["differing"].sum() == differing.sum()


def test_without_attention_the_token_is_all_there_is(corpus):
    model = tiny.fresh("gpt2", "none")
    for block in model.blocks:
        block.attn.W_O.data.zero_()
    result = context_exchange(model, corpus, untrained=0)
    summary = result.summary().query("metric == 'residual'")
    assert summary["mean"].tolist() == pytest.approx([1.0] * 3)
    assert "Right at the exchange, the token explains 100% of the variance of residuals after layer 0" in " ".join(
        result.details()
    )


def test_what_attention_copies_from_the_context_is_not_the_tokens(corpus):
    found = []
    for scale in (0.05, 0.3, 1.0):
        model = tiny.fresh("gpt2", "none")
        model.blocks[0].attn.W_O.data *= scale
        found.append(shares(context_exchange(model, corpus, untrained=0).table, "residual"))
    quiet, some, loud = (rows.query("layer == 0")["share"].mean() for rows in found)
    assert 1 > quiet > some > loud + 0.05


def test_one_sequence_has_nothing_to_exchange(corpus):
    with pytest.raises(InputError, match="has 1 sequence of 4 tokens or more"):
        context_exchange(tiny.model("gpt2"), corpus[:1], untrained=0)


def test_distances_are_each_counted_once(corpus):
    table = context_exchange(tiny.model("gpt2"), corpus, untrained=0).table
    counts = table.query("layer == 0").groupby("distance")["positions"].sum()
    lengths = exchanged(corpus)[1].lengths[::3]
    tails = lengths - lengths // 2
    at_least = pd.Series({at: int((tails - at).clamp(min=0, max=max(1, at)).sum()) for at in counts.index})
    assert counts.astype(int).equals(at_least)
