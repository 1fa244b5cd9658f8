"""Sub-joiner heads ablated: the same as by hand, chosen on other words, and random heads of an untrained model do as well."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechicl.claims import decide
from mechicl.corpora import load_corpus, pieces_of_ended_words
from mechicl.errors import InputError
from mechicl.metrics import cross_entropy
from mechicl.patches import head_means
from mechicl.probes.words import word_half
from mechicl.studies.stages.joiner_ablation import NEEDED, JoinerAblation
from mechicl.studies.stages.word_patterns import REACH
from tests import tiny
from tests.contract.catalogue import more_text

STUDY = JoinerAblation(pieces=(2,), heads=2, draws=3)


@pytest.fixture(scope="module")
def result():
    return STUDY.run(tiny.model("gpt2"), more_text())


def test_costs_are_those_of_hooks_by_hand(result):
    model, corpus = tiny.model("gpt2"), more_text()
    means, tokens = head_means(model, corpus), corpus.tokens[:1, : corpus.lengths[0]]
    heads = [tuple(map(int, name.split("."))) for name in result.table.query("draw == -1")["heads"].iloc[0].split(", ")]
    assert {layer for layer, _ in heads} == {0}, "the first third of three layers"

    def hold(z, hook):
        z = z.clone()
        for layer, head in heads:
            z[:, 1:, head] = means[layer, head]
        return z

    with torch.no_grad():
        logits = [model(tokens, prepend_bos=False),
                  model.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=[("blocks.0.attn.hook_z", hold)])]  # fmt: skip
    clean, ablated = (cross_entropy(one[0, :-1], tokens[0, 1:]) for one in logits)
    words = corpus.words[:1, : corpus.lengths[0]]
    at = (pieces_of_ended_words(words) > 1) & (word_half(tokens, words) == 1)
    row = result.table.query("draw == -1 and sequence == 0 and after == 'several tokens'").iloc[0]
    assert row["words"] == int(at[0, :-1].sum())
    assert row["cost"] == pytest.approx(float((ablated - clean)[at[0, :-1]].mean()), rel=1e-3, abs=1e-6)


def test_padding_has_no_part_in_patterns():
    """A shorter sequence is padded, and what its padding attends to is NaN."""
    draw, words = np.random.default_rng(0), ["Happy", "Sad", "World", "ax", "bx", "a b", "c b"]
    texts = [" " + " ".join(words[i] for i in draw.integers(0, len(words), 40 - n % 3)) for n in range(12)]
    corpus = load_corpus(tiny.tokenizer(), texts, prepend_bos=True, n_ctx=160, packing="documents")
    assert len(set(corpus.lengths.tolist())) > 1
    result = STUDY.run(tiny.model("gpt2"), corpus)
    assert result.table.query("part == 'pattern'")["attention"].notna().all()
    assert len(result.summary())


def test_patterns_are_those_of_held_out_words(result):
    """What the last token of a word of two tokens attends to, without position 0 in reach."""
    model, corpus = tiny.model("gpt2"), more_text()
    ended, half = pieces_of_ended_words(corpus.words), word_half(corpus.tokens, corpus.words)
    rows = result.table.query("part == 'pattern' and sequence == 1 and pieces == 2")
    at = ((ended[1] == 2) & (half[1] == 1)).nonzero()[:, 0]
    at = at[at >= REACH]
    with torch.no_grad():
        _, cache = model.run_with_cache(corpus.tokens[1:2, : corpus.lengths[1]], prepend_bos=False)
    for row in rows.itertuples():
        layer, head = map(int, row.heads.split("."))
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, head]
        assert row.words == len(at)
        assert row.attention == pytest.approx(float(pattern[at, at - int(row.back)].mean()), abs=1e-6)
    example = result.table.query("part == 'example' and pieces == 2")
    assert set(example["word"]) <= {"a b", "c b", "ax", "bx"}
    assert example.groupby("word").size().eq(REACH).all(), "a row per distance, each word once"
    assert set(example["heads"]) == {result.table.query("part == 'example'")["heads"].iloc[0]}


def test_random_heads_are_others_of_the_same_layers():
    sets = STUDY.sets([(0, 1), (0, 3), (2, 0)], 6)
    assert set(sets) == {-1, 0, 1, 2}
    for draw in range(3):
        assert sorted(layer for layer, _ in sets[draw]) == [0, 0, 2]
        assert not set(sets[draw]) & set(sets[-1])
        assert len(set(sets[draw])) == 3
    with pytest.raises(InputError, match="give fewer heads"):
        STUDY.sets([(0, 0), (0, 1)], 2)


def test_needed_heads_are_told_from_any_others(result):
    assert all(one.outcome != "supported" for one in result.claims)
    assert [trace.type for trace in result.figure().data].count("bar") == 2
    draw, rows = np.random.default_rng(0), []
    for document in range(10):
        for number, cost in ((-1, 0.3), *((n, 0.05) for n in range(4))):
            for after, more in (("several tokens", cost), ("one token", 0.02)):
                rows.append({"draw": number, "sequence": document, "document": document, "after": after, "heads": "1.2",
                             "words": 10, "part": "ablation", "cost": more + draw.normal(0, 0.01)})  # fmt: skip
    table = pd.DataFrame(rows)
    verdict = decide(NEEDED, STUDY.evidence(NEEDED, table))
    assert verdict.outcome == "supported"
    assert verdict.effect == pytest.approx(0.25, abs=0.02)
    assert "The heads are L1.H2" in verdict.note
    alike = table.assign(cost=np.where(table["draw"] < 0, 0.05, table["cost"]))
    assert decide(NEEDED, STUDY.evidence(NEEDED, alike)).outcome == "contradicted"
    assert decide(NEEDED, STUDY.evidence(NEEDED, table.assign(words=1))).outcome == "undecided"
