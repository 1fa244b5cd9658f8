"""Words spelt in several tokens: the spelling, the measure of nearness, and what an untrained model must not show."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

import mechicl as mi
from mechicl.corpora.spellings import evenly_divided, in_context, spelt_words
from mechicl.probes import LastResidual
from mechicl.studies.stages.inner_lexicon import InnerLexicon
from mechicl.studies.stages.spelling_bench import Put, nearest
from tests import tiny

FIRST = ["bel", "cor", "dun", "fam", "gil", "hos", "jap", "kem", "lud", "mir", "nov"]
LAST = ["ado", "ebi", "ica", "ofu", "uge", "aho", "eji", "ika", "olu", "ume"]


@pytest.fixture(scope="module")
def corpus():
    """Text of 110 words with a token each, whose two halves are tokens, too."""
    words = ["▁" + first + last for first in FIRST for last in LAST]
    vocabulary = {text: i for i, text in enumerate(["<s>", "<unk>", *words, *(f"▁{f}" for f in FIRST), *LAST])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    draw = np.random.default_rng(0)
    texts = [" ".join(words[i][1:] for i in draw.integers(0, len(words), 60)) for _ in range(20)]
    return mi.load_corpus(tokenizer, texts, packing="documents", prepend_bos=True)


@pytest.fixture(scope="module")
def untrained(corpus):
    cfg = HookedTransformerConfig(
        n_layers=4, d_model=32, n_ctx=64, d_head=16, n_heads=2, d_vocab=len(corpus.tokenizer), act_fn="gelu", seed=0
    )  # fmt: skip
    model = HookedTransformer(cfg)
    model.tokenizer = corpus.tokenizer
    return model


def test_the_most_even_division_is_taken():
    vocabulary = {text: i for i, text in enumerate(["Ġrem", "arks", "Ġre", "marks", "Ġremar", "ks", "m", "Ġremarks"])}
    assert evenly_divided("Ġremarks", 2, vocabulary) == (0, 1)
    assert evenly_divided("Ġremarks", 3, vocabulary) == ()  # no piece has a single letter


def test_words_are_spelt_in_their_context(corpus):
    spellings = spelt_words(corpus, (2,), context=3, most=500, generator=np.random.default_rng(0))
    assert len(spellings) == 110
    tokenizer = corpus.tokenizer
    for spelling in spellings[:10]:
        (first, second), token = spelling.places, spelling.token
        assert first != second
        assert {int(corpus.tokens[place]) for place in (first, second)} == {token}
        pieces = tokenizer.convert_ids_to_tokens(list(spelling.pieces[2]))
        assert "".join(pieces) == tokenizer.convert_ids_to_tokens(token) == "▁" + spelling.word
    (row, end), pieces = spellings[0].places[0], spellings[0].pieces[2]
    read = in_context(corpus, [(row, end)], [pieces], context=3)
    assert read.tokens[0].tolist() == [corpus.tokens[row, 0], *corpus.tokens[row, end - 3 : end].tolist(), *pieces]
    assert read.words[0].tolist() == [-1, -1, -1, -1, 0, 0]


def test_residuals_are_nearest_to_themselves_and_not_to_others():
    residuals = torch.randn(20, 3, 8, generator=torch.Generator().manual_seed(0))
    hits, cosine = nearest(3 * residuals + 100, residuals)  # neither length nor a common offset matters
    assert hits.eq(1).all()
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-4, rtol=0)
    assert nearest(residuals, residuals.roll(1, 0))[0].eq(0).all()


def test_a_replaced_embedding_is_another_token():
    model = tiny.model("gpt2")
    texts = mi.load_corpus(tiny.tokenizer(), ["some words in a row", "others"], prepend_bos=True, packing="documents")
    probe = LastResidual()
    plain = mi.run(model, texts, [probe])[probe].values
    for layer in (0, 2):
        put = Put(layer, texts.tokens, plain[:, layer])
        torch.testing.assert_close(mi.run(model, texts, [probe], [put])[probe].values, plain)
    other = texts.tokens.clone()
    last = (torch.arange(2), texts.lengths - 1)
    other[last] = 7
    position = model.W_pos[texts.lengths - 1]
    changed = mi.run(model, texts, [probe], [Put(0, texts.tokens, model.W_E[7] + position)])[probe].values
    for row, length in enumerate(texts.lengths):
        _, cache = model.run_with_cache(other[row : row + 1, :length])
        torch.testing.assert_close(changed[row, -1], cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"][0, -1])


def test_an_untrained_model_supports_no_claim(corpus, untrained):
    result = mi.studies.inner_lexicon(untrained, corpus, pieces=(2,), words=110)
    assert {one.claim.id: one.outcome for one in result.claims if one.outcome == "supported"} == {}
    spelling = result.table.query("arm == 'spelling' and quantity == 'retrieval'")
    means = spelling.groupby(["kind", "point"])["value"].mean()
    assert means["whole word", 0] == 1
    assert means["spelling"].max() < 0.1
    assert result.figure().data


def test_a_vocabulary_without_the_phrases_leaves_their_claim_undecided(corpus, untrained, monkeypatch):
    monkeypatch.setattr("mechicl.studies.stages.inner_lexicon._LEAST_PAIRS", 1000)
    result = mi.studies.inner_lexicon(untrained, corpus, pieces=(2,), words=110)
    assert not (result.table["arm"] == "meaning").any()
    (meaning,) = [one for one in result.claims if one.claim.id == "inner-lexicon-meaning"]
    assert (meaning.outcome, meaning.reason[:10]) == ("undecided", "Fewer than")
    assert result.table["point"].dtype == int
    assert result.figure().data


def test_words_without_a_token_of_their_own_are_refused_in_one_sentence():
    model = mi.load_model("tiny-icl")
    text = mi.load_corpus(model.tokenizer, "tiny-icl", tokens=600, prepend_bos=True)
    with pytest.raises(mi.InputError, match="hold 0 words that have a token of their own"):
        InnerLexicon().run(model, text)
