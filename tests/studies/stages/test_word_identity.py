"""Contexts of one length, groups of one ending, and a probe that tells words only where their other tokens are seen."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechicl.corpora import load_corpus, pieces_of_ended_words
from mechicl.corpora.contexts import context_ends, contexts
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.probes import LastResidual
from mechicl.probes.last_position import LastNeurons, LastPrediction
from mechicl.studies import word_identity
from mechicl.studies.stages.word_identity import (
    WordIdentity,
    held_out_correct,
    nearest_correct,
    occurrences,
    over_documents,
)
from tests import tiny


@pytest.fixture(scope="module")
def corpus():
    """Words of two bytes that end alike, and phrases of two words of a byte each, in random order."""
    draw = np.random.default_rng(0)
    words = ["ax", "bx", "cy", "dy", "a b", "c b"]
    texts = [" ".join(words[i] for i in draw.integers(0, 6, 60)) for _ in range(12)]
    return load_corpus(tiny.tokenizer(), texts, n_ctx=120, packing="documents", prepend_bos=True)


def test_contexts_are_the_tokens_up_to_their_end(corpus):
    assert not context_ends(corpus, corpus.tokens.shape[1] + 1).any()
    allowed = context_ends(corpus, 5)
    assert not allowed[:, :5].any()  # BOS is no token of a document
    assert allowed[:, 5].all()
    found = contexts(corpus, torch.tensor([[0, 5], [3, 40]]), 5)
    assert found.tokens[1].tolist() == [*corpus.tokens[3, :1].tolist(), *corpus.tokens[3, 36:41].tolist()]
    with pytest.raises(InputError, match="another document"):
        contexts(corpus, torch.tensor([[0, 4]]), 5)


def test_last_position_is_the_last_real_one(corpus):
    model, part = tiny.model("llama"), corpus[:2]
    residuals, neurons, predicted = LastResidual(), LastNeurons(((2, 5), (0, 1), (2, 0))), LastPrediction()
    seen = run(model, part, [residuals, neurons, predicted])
    for row, length in enumerate(part.lengths.tolist()):
        logits, cache = model.run_with_cache(part.tokens[row : row + 1, :length])
        torch.testing.assert_close(seen[residuals].values[row, 1], cache["blocks.1.hook_resid_pre"][0, -1])
        post = [cache[f"blocks.{layer}.mlp.hook_post"][0, -1, n] for layer, n in neurons.neurons]
        torch.testing.assert_close(seen[neurons].values[row], torch.stack(post))
        assert seen[predicted].values[row] == logits[0, -1].argmax()
    with pytest.raises(InputError, match=r"no neuron \(3, 0\)"):
        run(model, part, [LastNeurons(((3, 0),))])


def test_words_and_phrases_of_as_many_tokens(corpus):
    for span in ("word", "phrase"):
        found = occurrences(corpus, 2, span, 8)
        for case in found.itertuples():
            tokens = corpus.tokens[case.sequence, case.position - 1 : case.position + 1].tolist()
            assert case.label == " ".join(map(str, tokens))
            assert case.ending == tokens[-1]
    # a byte-level tokenizer makes a space of its own: " ax" is a word of the bytes a and x
    words = occurrences(corpus, 2, "word", 8)
    assert words["label"].nunique() == 4
    assert words["ending"].nunique() == 2
    assert len(words) == int((context_ends(corpus, 8) & (pieces_of_ended_words(corpus.words) == 2)).sum())


def test_a_probe_judged_on_other_sequences_tells_signal_from_noise(corpus):
    cases = occurrences(corpus, 2, "word", 8)
    signal = torch.tensor([[float(part) for part in label.split()] for label in cases["label"]])
    noise = torch.randn(len(cases), 2, generator=torch.Generator().manual_seed(0))
    assert held_out_correct(signal, cases, 0).mean() > 0.95
    assert held_out_correct(noise, cases, 0).mean() < 0.4
    assert nearest_correct(signal, cases, 0).mean() > 0.95
    assert nearest_correct(noise, cases, 0).mean() < 0.4


def test_a_word_of_one_document_is_not_asked_for(corpus):
    """No other document has an example of it, so no answer could be right; others are drawn from all their documents."""
    cases = occurrences(corpus, 2, "word", 8)
    first = cases["label"].iloc[0]
    alone = cases[(cases["label"] != first) | (cases["document"] == cases["document"].iloc[0])]
    study = WordIdentity(pieces=(2,), occurrences=5)
    there, here = ({rows["label"].iloc[0] for group in study._groups(one) for rows in group} for one in (cases, alone))
    assert there - here == {first}
    mixed = over_documents(cases[cases["label"] == first], 6, np.random.default_rng(0))
    assert mixed["document"].nunique() == 6


def test_a_length_that_is_left_out_is_named():
    draw = np.random.default_rng(0)
    words = ["ax", "bx", "good film", "bad film"]
    texts = [" ".join(words[i] for i in draw.integers(0, 4, 20)) for _ in range(8)]
    corpus = load_corpus(tiny.tokenizer(), texts, n_ctx=80, packing="documents", prepend_bos=True)
    result = word_identity(tiny.model("gpt2"), corpus, pieces=(2, 3), occurrences=5, context=4)
    assert set(result.table["pieces"]) == {2}
    assert "too few words of 3 tokens" in result.finding()
    assert "too few words of 3 tokens" in result.figure().layout.meta["subtitle"]


def test_the_embedding_of_the_last_token_tells_no_word(corpus):
    model = tiny.model("gpt2")
    with pytest.raises(InputError, match="use more text"):
        word_identity(model, corpus[:1], pieces=(2,), context=8)
    with pytest.raises(InputError, match=r"pieces is .*; give whole numbers from 2 on"):
        word_identity(model, corpus, pieces=(1,))


def test_too_few_documents_are_refused_and_an_error_of_another_kind_is_not_told_as_that() -> None:
    cases = pd.DataFrame({"label": ["a", "b"] * 6, "document": [0, 1, 2] * 4})
    activations = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="more than the 3 documents that hold them"):
        held_out_correct(activations, cases, 0)
    with pytest.raises(ValueError, match="NaN"):
        held_out_correct(activations * torch.nan, cases.assign(document=range(12)), 0)
