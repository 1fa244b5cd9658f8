"""Classes of tokens, balanced contexts, neurons ranked by hand, and probes that cannot see what judges them."""

import numpy as np
import pytest

from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.mlp_neurons.token_classes import class_members, other_forms
from mechicl.models import hooked
from mechicl.studies import class_logits, voting
from mechicl.studies.stages.ballots import ballots
from mechicl.studies.stages.ensembles import Judged
from mechicl.studies.stages.voters import find_neurons, neuron_tokens
from mechicl.studies.stages.voting import VOTES, Voting
from tests import tiny

WORDS = ("Happy", "Sad", "Angry")


class Vocabulary:
    """Pieces as a byte-level tokenizer has them."""

    pieces = ("Ġgoing", "Ġgo", "Ġgoes", "Ġrunning", "Ġrun", "Ġthing", "Ġthe", "ing", "Ġmaking", "Ġmake", "Ġsmile")

    def __len__(self):
        return len(self.pieces)

    def decode(self, ids):
        return self.pieces[ids[0]].replace("Ġ", " ")

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[i] for i in ids]


@pytest.fixture(scope="module")
def corpus():
    """Texts in which the class's words and others follow the same tokens."""
    draw = np.random.default_rng(0)
    names = ["Happy", "Sad", "Angry", "World", "Person", "good", "film"]
    texts = [" " + " ".join(names[i] for i in draw.integers(0, 7, 60)) for _ in range(12)]
    return load_corpus(tiny.tokenizer(), texts, n_ctx=80, packing="documents", prepend_bos=True)


def test_classes_are_suffixes_words_ids_or_tests():
    tokens = Vocabulary()
    assert class_members(tokens, "-ing", 12).nonzero().flatten().tolist() == [0, 3, 5, 7, 8]
    assert class_members(tokens, ["go", " the"], 12).nonzero().flatten().tolist() == [1, 6]
    assert class_members(tokens, (2, 9), 12).nonzero().flatten().tolist() == [2, 9]
    assert class_members(tokens, lambda text: "u" in text, 12).nonzero().flatten().tolist() == [3, 4]
    with pytest.raises(InputError, match="0 of 12 tokens are of the class -ly"):
        class_members(tokens, "-ly", 12)


def test_other_forms_share_a_stem_with_a_vowel():
    stems = other_forms(Vocabulary(), "-ing", 12)
    groups = [{token for token in stems if stems[token] == number} for number in set(stems.values())]
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [3, 4], [8, 9]]  # "the" is no form of "thing"


def test_contexts_are_balanced_matched_and_divided(corpus):
    table = ballots(corpus, WORDS, tiny.D_VOCAB, context=8, most=80, seed=0)
    assert table["label"].mean() == 0.5
    assert len(table) == 160
    members = class_members(tiny.tokenizer(), WORDS, tiny.D_VOCAB)
    for _, pair in table.groupby("pair"):
        assert sorted(pair["label"]) == [False, True]
        assert pair["last"].nunique() == 1
    for case in table.itertuples():
        following = corpus.tokens[case.sequence, case.position + 1]
        assert following == case.token
        assert bool(members[following]) == case.label
    assert (table.groupby("sequence")["fold"].nunique() == 1).all()
    with pytest.raises(InputError, match="at least 60 are needed"):
        ballots(corpus[:1], WORDS, tiny.D_VOCAB, context=8, most=80, seed=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_effects_are_mean_differences_of_logits(family):
    model = tiny.fresh(family, "fold")
    net = hooked(model)
    table = find_neurons(model, WORDS)
    assert table["effect"].abs().is_monotonic_decreasing
    members = class_members(net.tokenizer, WORDS, tiny.D_VOCAB)
    first = table.iloc[0]
    x = (net.W_out(first["layer"])[first["neuron"]] @ net.W_U).detach()
    assert first["effect"] == pytest.approx(float(x[members].mean() - x[~members].mean()), rel=1e-4)
    assert ((table["effect"] > 0) == (table["kind"] == "prediction")).all()
    paper = find_neurons(model, WORDS, protocol="paper")
    wrong = paper[(paper["effect"] > 0) & (paper["kurtosis"] <= 10)]
    assert len(wrong)
    assert (wrong["kind"] == "suppression").all()  # candidates by variance alone are filed wrong
    tokens = neuron_tokens(model, int(first["layer"]), int(first["neuron"]), k=3)
    assert tokens["top_cosine"].is_monotonic_decreasing
    best = x / net.W_U.norm(dim=0)
    assert tokens["top"][0] == net.tokenizer.decode([int(best.argmax())])
    with pytest.raises(InputError, match="no neuron"):
        neuron_tokens(model, 0, 10_000)


def test_ensembles_find_what_is_there_and_nothing_in_noise():
    draw = np.random.default_rng(0)
    label = draw.random(900) < 0.5
    activations = draw.normal(size=(900, 8))
    activations[:, 3] += label
    activations[:, 6] += label
    part = draw.integers(0, 4, 900)
    judged = Judged(activations, label, part < 2, part == 2, part == 3)
    assert set(judged.ranked(list(range(8)))[:2]) == set(judged.greedy(list(range(8)), 2)) == {3, 6}
    together = judged.growing([3, 6, 0])
    assert together[1].mean() > together[0].mean() > 0.6
    noise = Judged(draw.normal(size=(900, 8)), label, part < 2, part == 2, part == 3)
    order = noise.ranked(list(range(8)))
    assert abs(noise.growing(order)[-1].mean() - 0.5) < 0.08
    assert noise.growing(noise.ranked(list(range(8)), on_test=True))[0].mean() >= noise.growing(order)[0].mean()


def test_the_study_in_both_protocols(corpus):
    model = tiny.fresh("llama", "fold")
    result = voting(model, corpus, token_class=WORDS, neurons=3, context=8, pairs=80)
    metrics = set(result.summary()["metric"])
    assert metrics >= {"prediction, greedy", "suppression, ranked", "both kinds, ranked", "random, ranked"}
    assert metrics >= {"votes of prediction", "single probe", "single vote", "model's own prediction"}
    assert result.table["accuracy"].between(0, 1).all()
    assert "model itself" in " ".join(result.details())
    drawn = result.table[result.table["what"] == "random, ranked"]
    assert set(drawn["draw"]) == {0, 1, 2}
    apart = result.table.assign(accuracy=result.table["accuracy"] + 0.3 * result.table["draw"].clip(lower=0))
    here, spread = (result.study.evidence(VOTES, table).interval for table in (result.table, apart))
    assert spread.high - spread.low > here.high - here.low, "draws of random neurons differ, too"
    assert result.figure().data
    paper = voting(model, corpus, token_class=WORDS, neurons=3, context=8, pairs=80, protocol="paper")
    assert not {metric for metric in paper.summary()["metric"] if "greedy" in metric or "random" in metric}
    assert Voting(token_class=lambda text: text == "happy").for_model(model).token_class == tuple(
        class_members(model.tokenizer, "Happy", tiny.D_VOCAB).nonzero().flatten().tolist()
    )
    with pytest.raises(InputError, match="neurons is 0; give a whole number from 1 on"):
        Voting(neurons=0)


def test_votes_are_activations_times_effects(corpus):
    model = tiny.fresh("gpt2", "fold")
    result = voting(model, corpus, token_class=WORDS, neurons=1, context=8, pairs=80)
    table, best = result.table, find_neurons(model, WORDS).iloc[0]
    own = (table["layer"] == best["layer"]) & (table["neuron"] == best["neuron"])
    rows = table[own & (table["what"] == "single vote")]
    together = table[table["what"] == "votes of both kinds"]
    assert np.average(rows["accuracy"], weights=rows["contexts"]) == pytest.approx(
        np.average(together["accuracy"], weights=together["contexts"])
    )


def test_histograms_hold_every_token_once_where_its_logit_lies():
    model = tiny.fresh("gpt2", "fold")
    result = class_logits(model, token_class=WORDS, neurons=5, kurtosis=0.0, variance=0.0)
    ranking, net = find_neurons(model, WORDS, kurtosis=0.0, variance=0.0), hooked(model)
    members = class_members(net.tokenizer, WORDS, net.sizes.d_vocab)
    for rank, bins in result.table.groupby("rank"):
        layer, neuron = ranking.loc[rank, ["layer", "neuron"]]
        logits = (net.W_out(layer)[neuron] @ net.W_U).detach()
        for counted, of_class in (("members", members), ("others", ~members)):
            assert bins[counted].sum() == of_class.sum()
            inside = [int((logits[of_class] <= right).sum()) for right in bins["right"]]
            assert np.abs(bins[counted].cumsum() - inside).max() <= 1  # a value at an edge
        middles = (bins["left"] + bins["right"]) / 2
        means = [np.average(middles, weights=bins[counted]) for counted in ("members", "others")]
        assert means[0] - means[1] == pytest.approx(ranking.loc[rank, "effect"], abs=bins["right"].diff().iloc[1])
    summary = result.summary().set_index(["metric", "rank"])["mean"]
    assert summary["overlap"].between(0, 1).all()
    assert summary["effect"].tolist() == pytest.approx(ranking["effect"].head(5).tolist())
    assert len(result.figure().layout.meta["panels"]) == 8  # four in a row
    assert f"The class has {int(members.sum())} tokens." in " ".join(result.details())
