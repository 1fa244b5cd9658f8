"""Pieces of words, the edges that are cut, and the study over them."""

import pytest
import torch

from mechicl.corpora import load_corpus, pieces_of_ended_words, pieces_so_far
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.patches import CutWords
from mechicl.patches.cut_words import cut_words
from mechicl.probes.words import WordAttention, word_half
from mechicl.studies import word_merging
from mechicl.studies.stages.word_merging import WordMerging
from tests import tiny

WORDS = torch.tensor([[-1, 0, 1, 1, 1, 2, -1, 3, 3]])
TEXTS = ["Review good film cat dog", "Question Answer unseen words Type of a Person in the World good film"] * 2


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)


def test_pieces():
    assert pieces_so_far(WORDS).tolist() == [[0, 1, 1, 2, 3, 1, 0, 1, 2]]
    assert pieces_of_ended_words(WORDS).tolist() == [[0, 1, 0, 0, 3, 1, 0, 0, 2]]


def test_as_many_edges_are_cut_before_the_word_as_within():
    assert cut_words(WORDS).tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 2]]  # the word of three has no room before it
    within, before = (CutWords([0], where).mask(WORDS) for where in ("within", "before"))
    assert within.nonzero().tolist() == [[0, 8, 7]]
    assert before.nonzero().tolist() == [[0, 8, 6]]
    longer = torch.tensor([[-1, 0, 1, 2, 3, 3, 3]])
    within, before = (CutWords([0], where).mask(longer) for where in ("within", "before"))
    assert within.nonzero()[:, 2].tolist() == [4, 5]
    assert before.nonzero()[:, 2].tolist() == [2, 3]


def test_cut_edges_carry_no_attention(corpus):
    model = tiny.model("gpt2")
    patch = CutWords([0])
    batch = corpus.batch()
    seen = {}
    with model.hooks(
        [*patch.hooks(model, batch), ("blocks.0.attn.hook_pattern", lambda p, hook: seen.update(pattern=p))]
    ):
        model(batch.tokens)
    mask = patch.mask(batch.words)[:, None].expand_as(seen["pattern"])
    assert mask.any()
    assert (seen["pattern"][mask] == 0).all()
    torch.testing.assert_close(seen["pattern"].sum(-1), torch.ones_like(seen["pattern"][..., 0]))


def test_within_and_across_are_single_entries(corpus):
    model, probe = tiny.model("gpt2"), WordAttention(1)
    reading = run(model, corpus, [probe])[probe]
    within, across = probe.cases(corpus.words)
    assert (corpus.words[:, :-1][across[:, 1:]] >= 0).all()  # not punctuation
    _, cache = model.run_with_cache(corpus.tokens)
    pattern = cache["blocks.1.attn.hook_pattern"]
    for row in range(len(corpus)):
        for name, cases in (("within", within), ("across", across)):
            terms = [pattern[row, :, t, t - 1] for t in cases[row].nonzero().flatten()]
            assert reading.counts[f"n_{name}"][row] == len(terms)
            mean = torch.stack(terms).double().mean(0) if terms else torch.full((tiny.N_HEADS,), torch.nan).double()
            torch.testing.assert_close(reading[name][row, 1], mean, rtol=1.3e-6, atol=1e-6, equal_nan=True)


def test_the_same_word_is_always_in_the_same_half(corpus):
    half, ended = word_half(corpus.tokens, corpus.words), pieces_of_ended_words(corpus.words)
    found = {}
    for row in range(len(corpus)):
        for span in corpus.word_spans(row):
            assert ended[row, span.stop - 1] == span.stop - span.start
            assert found.setdefault(span.word, int(half[row, span.stop - 1])) == int(half[row, span.stop - 1])


def test_the_study():
    longer = [f"{TEXTS[0]} a b c Type of", f"{TEXTS[1]} and so a b c on World was it and cat you"]
    corpus = load_corpus(tiny.tokenizer(), longer * 12, n_ctx=60, packing="documents", prepend_bos=True)
    result = word_merging(tiny.model("llama"), corpus)
    metrics = set(result.summary()["metric"])
    assert metrics >= {"within_1", "across_1", "auroc", "mass", "control", "cost, within", "cost, before"}
    assert "for words of 3 tokens L" in " ".join(result.details())
    score = result.summary().query("metric == 'score' and pieces == 3")
    assert (score["low"] <= score["mean"] + 1e-9).all()
    assert (score["mean"] <= score["high"] + 1e-9).all()
    assert "too few words of 2 and 4 tokens" in result.finding()
    assert result.figure().data
    with pytest.raises(InputError, match="Too few words"):
        word_merging(tiny.model("llama"), corpus, pieces=[30]).summary()
    with pytest.raises(InputError, match=r"pieces is .*; give whole numbers from 2 on"):
        WordMerging(pieces=(1,))
    with pytest.raises(InputError, match="protocol"):
        WordMerging("paper")
