"""Sub-joiner heads: what the probe averages is what whole patterns hold, and a head that joins is found."""

import numpy as np
import pytest
import torch

from mechicl.corpora import load_corpus, pieces_of_ended_words
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.probes import SubJoiner
from mechicl.probes.sub_joiner import SUB_JOINER_QUANTITIES
from mechicl.probes.words import word_half
from mechicl.studies.stages.sub_joiners import best_of_layers, judged, measure_heads, ranked_heads
from tests import tiny

ATOL = 1e-6
SINGLE = ["Review", "good", "film", "Person", "World", "Type", "a", "b", "c"]
LONGER = ["cat", "and", "you", "was", "of", "unseen"]


@pytest.fixture(scope="module")
def corpus():
    """Words of one token and of several, in turn, in sequences of different lengths."""
    draw = np.random.default_rng(0).choice
    texts = [" ".join(f"{draw(SINGLE)} {draw(SINGLE)} {draw(LONGER)}" for _ in range(n)) for n in (5, 9, 12)]
    return load_corpus(tiny.tokenizer(), texts, n_ctx=80, packing="documents", prepend_bos=True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_means_are_those_of_whole_patterns(corpus, family):
    model, probe = tiny.model(family), SubJoiner(3, near=20)
    reading = run(model, corpus, [probe], batch_size=2)[probe]
    ended, half = pieces_of_ended_words(corpus.words), word_half(corpus.tokens, corpus.words)
    _, cache = model.run_with_cache(corpus.tokens, prepend_bos=False)
    sums, words, pairs = torch.zeros(*reading.shape, 4), torch.zeros(len(corpus), 1, 1, 2), 0
    for row in range(len(corpus)):
        for t in range(3, corpus.tokens.shape[1]):
            singles = [s for s in range(3, corpus.tokens.shape[1])
                       if ended[row, s] == 1 and half[row, s] == half[row, t] and abs(s - t) <= 20]  # fmt: skip
            if ended[row, t] != 3 or not singles:
                continue
            pairs += len(singles)
            words[row, ..., half[row, t]] += 1
            for layer in range(tiny.N_LAYERS):
                a = cache["pattern", layer][row]  # [head query key]
                mass = a[:, t, t - 1] + a[:, t, t - 2]
                control = torch.stack([a[:, s, s - 1] + a[:, s, s - 2] for s in singles])
                bias = a[:, t, t - 2] - (a[:, t, t - 1] + a[:, t, t]) / 2
                auroc = (mass > control).float().mean(0)
                sums[row, layer, :, half[row, t]] += torch.stack([mass, bias, control.mean(0), auroc], -1)
    assert pairs > 10
    assert torch.equal(reading.counts["words"], words.long())
    for name, summed in zip(SUB_JOINER_QUANTITIES, sums.double().unbind(-1), strict=True):
        torch.testing.assert_close(reading[name], summed / words, atol=ATOL, rtol=1e-5, equal_nan=True)


def test_text_without_such_words_gives_no_means(corpus):
    probe = SubJoiner(30)
    reading = run(tiny.model("gpt2"), corpus, [probe])[probe]
    assert not reading.counts["words"].any()
    assert all(values.isnan().all() for values in reading.quantities.values())


def test_a_head_that_joins_is_chosen_and_judged(corpus):
    model = tiny.model("gpt2")
    _, batch = next(corpus.batches(len(corpus)))

    def join(pattern, hook):
        """Head 2 of layer 1 looks from a word's last token to its first, and to itself everywhere else."""
        ended = pieces_of_ended_words(batch.words)
        own = torch.eye(pattern.shape[-1]).expand(len(pattern), -1, -1).clone()
        for row, t in (ended > 1).nonzero().tolist():
            own[row, t] = 0
            own[row, t, t - int(ended[row, t]) + 1] = 1
        return torch.cat([pattern[:, :2], own[:, None], pattern[:, 3:]], 1)

    with model.hooks([("blocks.1.attn.hook_pattern", join)]):
        rows = measure_heads(model, corpus, (3, 30), batch_size=len(corpus)).assign(model="tiny")
    heads = ranked_heads(rows)
    assert heads.loc[0, ["pieces", "layer", "head"]].tolist() == [3, 1, 2]
    assert heads.loc[0, ["auroc", "mass", "control", "first_bias", "score"]].tolist() == [1, 1, 0, 1, 1]
    assert set(heads["pieces"]) == {3}  # there is no word of 30 tokens
    assert len(heads) == tiny.N_LAYERS * tiny.N_HEADS
    summary = judged(rows, best_of_layers(heads))
    np.testing.assert_allclose(summary[(summary["layer"] == 1) & (summary["metric"] == "auroc")]["mean"], 1)
    assert len(summary) == 5 * tiny.N_LAYERS


def test_single_tokens_are_refused():
    with pytest.raises(InputError, match="2 tokens"):
        SubJoiner(1)
