"""Part of speech against a control task: what knows the word alone is not selective."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.studies.stages.part_of_speech import _FOLDS, PartOfSpeech, _correct, control_task, frequent_tags
from tests import tiny


@pytest.fixture(scope="module")
def cases():
    """Forty words of two kinds, in random order; a few are of either kind."""
    draw = np.random.default_rng(0)
    word = draw.integers(0, 40, 900)
    tag = np.where(word < 20, "noun", "verb")
    either = word >= 36
    tag[either] = draw.choice(["noun", "verb"], either.sum())
    return pd.DataFrame(
        {"word": word.astype(str), "tag": tag, "sequence": np.arange(900) // 10, "fold": np.arange(900) % 3}
    )


def test_a_probe_on_words_alone_is_not_selective_and_one_on_the_feature_is(cases):
    folds = [cases["fold"].to_numpy() == fold for fold in range(_FOLDS)]
    dealt = control_task(cases, 0)
    assert dealt.groupby(cases["word"]).nunique().max() == 1
    assert (dealt == cases["tag"]).mean() == pytest.approx(0.5, abs=0.25)
    draw = np.random.default_rng(1)
    identity = draw.normal(size=(40, 64))[cases["word"].astype(int)]
    feature = np.where(cases["tag"] == "noun", 1.0, -1.0)[:, None] + draw.normal(0, 0.3, (900, 64))
    selectivity = {}
    for name, vectors in (("identity", identity), ("feature", feature)):
        right = [_correct(vectors, labels.to_numpy(str), folds).mean() for labels in (cases["tag"], dealt)]
        assert right[0] > 0.9
        selectivity[name] = right[0] - right[1]
    assert selectivity["feature"] > 0.2 > abs(selectivity["identity"])
    by_word, majority = frequent_tags(cases, folds)
    assert by_word.mean() == pytest.approx(0.95, abs=0.03)
    assert majority.mean() == pytest.approx(0.5, abs=0.1)


def test_words_are_tagged_at_their_last_token():
    pytest.importorskip("textblob", reason="textblob is not installed")
    from mechicl.corpora.parts_of_speech import tagged_words

    corpus = load_corpus(tiny.tokenizer(), ["Question Answer good film; a Person was in the World, so bad."], n_ctx=64,
                         packing="documents", prepend_bos=True)  # fmt: skip
    words = tagged_words(corpus).set_index("word")
    assert words["tag"].to_dict() | {"film": "noun", "in": "preposition", "the": "determiner"} == words["tag"].to_dict()
    for word, row in words.iterrows():
        spelt = corpus.tokenizer.decode(corpus.tokens[0, : row["position"] + 1].tolist())
        assert spelt.lower().rstrip().endswith(word)
    assert (words["position"] > 0).all()


def test_an_untrained_model_supports_nothing():
    pytest.importorskip("textblob", reason="textblob is not installed")
    draw = np.random.default_rng(0)
    known = ["good", "bad", "film", "World", "so", "the", "in", "a", "Person", "was"]
    texts = [" ".join(known[i] for i in draw.integers(0, len(known), 30)) for _ in range(9)]
    corpus = load_corpus(tiny.tokenizer(), texts, n_ctx=64, packing="documents", prepend_bos=True)
    with pytest.raises(InputError, match="use more text, or a shorter context"):
        PartOfSpeech(context=60).run(tiny.model("gpt2"), corpus)
    result = PartOfSpeech(words=120, context=3).run(tiny.model("gpt2"), corpus)
    assert all(one.outcome != "supported" for one in result.claims)
    assert result.table.groupby("point")["words"].sum().eq(120).all()
    assert result.claims[0].note.startswith("Selectivity is ")
    assert len(result.figure().layout.meta["panels"]) == 2
    assert torch.isfinite(torch.tensor(result.summary()["mean"].to_numpy())).all()
