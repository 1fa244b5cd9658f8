"""Several layers at once: sets and orders as promised, and the sum of single lesions as measured."""

import functools

import numpy as np
import pytest

from mechicl.corpora import load_corpus
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.patches import DropMany, Reorder
from mechicl.studies import many_lesions
from mechicl.studies.stages.many_lesions import ManyLesions, draw_means
from tests import tiny

TEXTS = ["Review good film and a long sentence", "Question Answer Type of a Person in the World"]


@functools.cache
def result():
    corpus = load_corpus(tiny.tokenizer(), TEXTS, n_ctx=24, packing="documents", prepend_bos=True)
    return corpus, many_lesions(tiny.model("neo"), corpus, draws=3)


def test_sets_leave_the_ends_alone_and_orders_are_orders():
    made = ManyLesions(draws=5).lesions(8)
    for kind, size, tau, lesion in made:
        if kind == "drop":
            assert isinstance(lesion, DropMany)
            assert len(lesion.dropped) == size
            assert {0, 7}.isdisjoint(lesion.dropped)
        else:
            assert isinstance(lesion, Reorder)
            assert (lesion.to[0], lesion.to[-1]) == (0, 7)
            assert sorted(lesion.to) == list(range(8))
            assert lesion.to != tuple(range(8))
            assert tau == lesion.kendall_tau
    sizes = [size for kind, size, *_ in made if kind == "drop"]
    assert sizes.count(1) == 6  # every middle layer alone
    assert sizes.count(6) == 1  # there is only one way to leave out all
    assert ManyLesions(draws=5).lesions(8) == made  # the seed decides


def test_kendall_tau():
    assert Reorder((0, 1, 2, 3)).kendall_tau == 1
    assert Reorder((3, 2, 1, 0)).kendall_tau == -1
    assert Reorder((0, 2, 1, 3)).kendall_tau == pytest.approx(2 / 3)  # one of six pairs is turned


def test_draws_are_the_sweep_and_singles_are_summed():
    corpus, found = result()
    draws = draw_means(found.table).set_index(["kind", "layers"])
    compared = lesion_sweep(
        tiny.model("neo"), corpus.tokens, [DropMany([1, 2]), Reorder((0, 2, 1, 3))], lengths=corpus.lengths
    )
    both, swapped = (np.nanmean(compared.kl[row, :, 1:]) for row in (0, 1))
    assert draws.loc[("drop", "1 2"), "kl"] == pytest.approx(both, rel=1e-4)
    assert draws.loc[("swaps", "0 2 1 3"), "kl"] == pytest.approx(swapped, rel=1e-4)
    alone = draws.loc[("drop", "1"), "kl"] + draws.loc[("drop", "2"), "kl"]
    assert draws.loc[("drop", "1 2"), "kl if independent"] == pytest.approx(alone)
    assert draws.loc[("drop", "1"), "kl if independent"] == draws.loc[("drop", "1"), "kl"]


def test_it_shows_itself():
    _, found = result()
    assert "middle layers dropped" in found.finding()
    assert found.figure().data
    assert set(found.summary()["kind"]) == {"drop", "swaps", "shuffle"}


def test_what_does_not_fit_is_refused():
    corpus, _ = result()
    with pytest.raises(InputError, match="too few"):
        many_lesions(tiny.model("gpt2"), corpus)
    with pytest.raises(InputError, match="did not do it"):
        ManyLesions("paper")
