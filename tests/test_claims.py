"""Verdicts: planted effects are found, absent ones are not, and intervals cover."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mechicl.claims import Claim, Evidence, Verdict, Verdicts, decide
from mechicl.metrics.resampling import (
    SetInterval,
    jackknife,
    max_statistic_p,
    mean_of_many,
    mean_over_sets,
    over_few_sets,
    plateau,
)
from mechicl.studies.summary import mean_with_interval
from tests import claiming

CLAIM = Claim("gather", "Label words gather.", "section 1", "enrichment", "times an average key", "random text", 0.5)


def drawn(generator, effect, n_sets, per_set, spread=0.5, between=0.3):
    sets = np.repeat(np.arange(n_sets), per_set)
    values = effect + generator.normal(0, between, n_sets)[sets] + generator.normal(0, spread, len(sets))
    return values, sets


@pytest.mark.parametrize(("n_sets", "per_set"), [(4, 8), (5, 1), (8, 8), (40, 1)])
def test_intervals_cover_what_was_sampled(n_sets, per_set):
    """Prompts of one set are alike, so an interval over prompts would be too narrow; ours is not."""
    covered, naive = 0, 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        values, sets = drawn(generator, 1.0, n_sets, per_set, between=0.6)
        found = mean_over_sets(values, sets, generator=generator)
        covered += found.low <= 1 <= found.high
        half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
        naive += abs(values.mean() - 1) <= half
    assert covered >= 0.9 * 200
    assert per_set == 1 or naive < 0.85 * 200


def test_sets_that_agree_by_accident_leave_an_interval():
    """Each of four sets has one change in six prompts: the means are equal, and nothing is that certain."""
    values, sets = np.tile([1.0, 0, 0, 0, 0, 0], 4), np.repeat(np.arange(4), 6)
    interval = mean_over_sets(values, sets, generator=np.random.default_rng(0))
    assert interval.high - interval.low > 0.2


def test_planted_effects_are_found_and_reversed_ones_contradicted():
    outcomes = {1.0: [], -1.0: [], 0.0: []}
    for seed in range(50):
        for effect, kept in outcomes.items():
            values, sets = drawn(np.random.default_rng(seed), effect, 8, 8)
            kept.append(decide(CLAIM, Evidence(values, 0.0, sets)).outcome)
    assert outcomes[1.0].count("supported") >= 40
    assert outcomes[-1.0].count("contradicted") >= 40
    assert outcomes[0.0].count("supported") <= 2


def test_without_a_null_or_a_second_set_nothing_is_decided():
    values, sets = drawn(np.random.default_rng(0), 9.0, 8, 8)
    without = decide(CLAIM, Evidence(values, None, sets))
    assert without.outcome == "undecided"
    assert "random text, was not measured" in without.reason
    single = decide(CLAIM, Evidence(values, 0.0, np.zeros_like(sets)))
    assert single.outcome == "undecided"
    assert "single demonstration set" in single.reason
    assert decide(CLAIM, Evidence(values, 0.0, sets, p=0.3)).outcome == "undecided"
    assert decide(CLAIM, Evidence(values, 0.0, sets, p=0.01)).outcome == "supported"


def test_a_verdict_says_what_it_rests_on():
    values, sets = drawn(np.random.default_rng(0), 2.0, 8, 8)
    verdict = decide(CLAIM, Evidence(values, np.full(64, 0.1), sets))
    facts = verdict.facts()
    assert facts["verdict"] == "supported"
    assert facts["n"] == {"sets": 8, "prompts": 64}
    assert facts["low"] < facts["effect"] < facts["high"]
    assert facts["null"]["value"] == pytest.approx(0.1)
    assert "against random text" in verdict.numbers()
    assert "n = 8 sets, 64 prompts" in verdict.numbers()


@pytest.mark.parametrize("sets", [[0, 0, 0, 1, 1, 1], list(range(6)), [0] * 3 + [1] * 3])
def test_what_is_right_or_wrong_has_width_where_all_are_alike(sets):
    """Six prompts of which none changes exclude little: the Wilson bound of 0 in 6 is .39."""
    nothing = decide(CLAIM, Evidence(np.zeros(6), 0.0, np.array(sets)))
    assert nothing.high == pytest.approx(0.39, abs=0.05)
    many = mean_over_sets(np.zeros(400), np.arange(400), generator=np.random.default_rng(0))
    assert many.high < 0.02
    assert 0 < mean_of_many(np.zeros(50)).high < 0.1
    assert decide(replace(CLAIM, least=0.1), Evidence(np.zeros(6), 0.0, np.array(sets))).outcome == "undecided"


@pytest.mark.parametrize(("share", "null", "effect"), [(0.0, 0.25, -0.25), (1.0, 0.5, 0.5)])
def test_shares_have_their_width_against_a_number_other_than_0_too(share, null, effect):
    """Of six prompts of two sets none, or each, is right: against a constant answer this decides nothing."""
    verdict = decide(replace(CLAIM, least=0.1), Evidence(np.full(6, share), null, np.repeat([0, 1], 3)))
    assert verdict.effect == pytest.approx(effect)
    assert max(verdict.high - verdict.effect, verdict.effect - verdict.low) > 0.3
    measured = Evidence(np.ones(6), np.ones(6), np.repeat([0, 1], 3))
    assert decide(replace(CLAIM, least=0.1), measured).outcome == "undecided", "a null that is measured, too"


def test_an_interval_covers_where_one_of_few_sets_weighs_most():
    """Half the weight is in one of ten sets; were it a tenth, both formulas would be Student's t."""
    generator, weights = np.random.default_rng(0), np.array([9.0, *np.ones(9)])
    estimates = generator.normal(size=(10, 4000))
    low, high = over_few_sets(estimates, np.zeros_like(estimates), weights)
    assert 0.93 < ((low <= 0) & (high >= 0)).mean() < 0.99


def test_few_rows_of_a_single_set_have_students_interval():
    """Percentiles of five resampled prompts cover 84 of 100."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(300):
        rows = pd.DataFrame({"metric": "kl", "sequence": range(5), "value": generator.normal(size=5)})
        found = mean_with_interval(rows, "value", ["metric"]).iloc[0]
        covered += found["low"] <= 0 <= found["high"]
    assert covered > 0.92 * 300


def test_few_units_leave_more_places_on_a_plateau():
    draw = np.random.default_rng(0)
    assert plateau(np.array([[0.1, 0.9, 0.2]]), generator=draw).all(), "one document excludes no layer"
    excluded = []
    for _ in range(300):  # all places are equal, so each exclusion of the last is an error
        values = draw.normal(size=(3, 4))
        excluded.append(not plateau(values, generator=draw)[-1])
    assert np.mean(excluded) < 0.05


def test_a_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=9)
    without = np.array([np.delete(values, i).mean() for i in range(9)])
    expected = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    np.testing.assert_allclose(jackknife(values.mean(), without), expected)


def test_two_measured_means_have_the_errors_of_both():
    one, other = SetInterval(0.5, 0.2, 0.8, 5, 5), SetInterval(0.1, -0.3, 0.5, 5, 5)
    assert one.less_measured(other)[:3] == pytest.approx((0.4, -0.1, 0.9))


def test_a_maximum_is_held_against_maxima():
    """Of 30 layers without any effect, the best looks significant alone, and is not."""
    generator = np.random.default_rng(0)
    null, observed = generator.normal(size=(500, 30)), generator.normal(size=30)
    alone = (1 + (null[:, observed.argmax()] >= observed.max()).sum()) / 501
    assert alone < 0.05 < max_statistic_p(observed, null)[observed.argmax()]
    observed[3] = 8
    assert max_statistic_p(observed, null)[3] == pytest.approx(1 / 501)


def test_a_result_answers_every_claim_on_every_task():
    verdicts = claiming.result_of(("sst2", "trec")).claims
    assert [(one.about["task"], one.outcome) for one in verdicts] == [
        (task, outcome) for task in ("sst2", "trec") for outcome in ("supported", "contradicted", "undecided")
    ]
    rows = verdicts.rows()
    assert list(rows[0]) == ["on", "claim", "verdict", "effect", "n"], "one model, one study: neither is named"
    assert rows[0]["effect"] == "+1.5 [1.29, 1.71] times an average key against random text tokens (0.25)."
    assert "was not measured" in rows[2]["effect"]
    assert json.dumps([one.facts() for one in verdicts], allow_nan=False)


def test_a_table_without_demonstration_sets_decides_nothing():
    """As 0.1.0 saved it: its prompts may share demonstrations or not, and nobody can say."""
    result = claiming.result_of()
    old = replace(result, table=result.table.drop(columns="demonstration_set"))
    assert {one.outcome for one in old.claims} == {"undecided"}
    assert "run the study again" in old.claims[0].reason


@pytest.mark.parametrize("n_sets", [4, 25])
def test_a_summary_has_the_interval_of_its_claim(n_sets):
    """One effect has one interval, whether a figure or a verdict shows it; sets that weigh alike."""
    values, sets = drawn(np.random.default_rng(0), 1.0, n_sets, 6)
    rows = pd.DataFrame({"metric": "loss", "seed": sets, "demonstration_set": 0, "value": values})
    (shown,) = mean_with_interval(rows, "value", ["metric"]).itertuples()
    claimed = mean_over_sets(values, sets, generator=np.random.default_rng(0))
    assert (shown.mean, shown.low, shown.high) == pytest.approx(claimed[:3], rel=1e-9)
    assert (shown.sets, shown.n) == (claimed.sets, claimed.n)
    alone = mean_with_interval(rows.query("seed == 0"), "value", ["metric"]).iloc[0]
    assert alone["low"] < alone["mean"] < alone["high"], "of a single set the interval is over its prompts"
    assert alone["sets"] == 1


def test_a_share_of_all_or_nothing_has_width():
    """Six right answers of six do not make an accuracy of 1 certain: Wilson's bound is .61; losses of 0 are exact."""
    rows = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "demonstration_set": 0, "value": 1.0})
    of = {
        name: mean_with_interval(rows.assign(metric=name), "value", ["metric"]).iloc[0] for name in ("accuracy", "kl")
    }
    assert (of["accuracy"]["low"], of["accuracy"]["high"]) == pytest.approx((0.61, 1), abs=0.005)
    assert of["kl"]["low"] == of["kl"]["high"] == 1
    mostly = rows.assign(value=[1, 1, 1, 1, 0, 0], metric="accuracy")
    assert mean_with_interval(mostly, "value", ["metric"])["high"].iloc[0] == 1, "no share is above 1"


def test_what_qualifies_verdicts_names_the_task_they_hold_on_unless_they_hold_on_all():
    """A verdict that compares models is on none of the tasks."""
    result = claiming.result_of(("sst2", "trec")).claims
    shared, one, none = (
        result[0],
        replace(result[3], limits=["Only here."]),
        Verdict(result[0].claim, "undecided", reason="Give more."),
    )
    verdicts = Verdicts(
        [replace(shared, limits=["Everywhere."], note="A number."), replace(one, reason="Everywhere."), none]
    )
    assert verdicts.limits() == ["On sst2: Everywhere.", "On trec: Only here."]
    assert verdicts._reasons([]) == ["On trec: Everywhere.", "Give more."]
    assert verdicts.notes() == ["On sst2: A number."]
    everywhere = [replace(one, limits=["Here.", *one.limits]) for one in verdicts[:2]]
    assert Verdicts(everywhere).limits() == ["Here.", "On sst2: Everywhere.", "On trec: Only here."]


def test_a_reason_stands_after_its_claim_and_is_not_repeated():
    of = {task: claiming.result_of((task,)).claims[0] for task in ("sst2", "trec")}
    other = claiming.claim("other", "Something else holds.")
    shared = [replace(one, outcome="undecided", reason="Give more.") for one in of.values()]
    again = replace(shared[1], claim=other)
    own = replace(shared[0], claim=other, reason="It may vanish.")
    said = Verdicts([*shared, own, again]).in_words()
    assert said.count("Give more.") == 1
    assert said.index(shared[0].claim.sentence) < said.index("Give more.") < said.index(other.sentence)
    assert said.endswith("On sst2: It may vanish.")
    assert Verdicts([again]).in_words().endswith(f"({again.size()} {other.unit}) Give more.")
    assert Verdicts([replace(again, low=np.nan)]).in_words().endswith("Something else holds. Give more.")


def test_a_single_document_that_makes_up_an_effect_is_named():
    even, documents = np.r_[np.full(11, 0.2), 0.3], np.arange(12)
    assert not decide(CLAIM, Evidence(even, 0.0, documents, "documents")).limits
    uneven = np.r_[np.full(11, 0.02), 3.0]
    found = decide(CLAIM, Evidence(uneven, 0.0, documents, "documents", note="So it is."))
    assert found.note == "So it is."
    (limit,) = found.limits
    assert limit == f"Without one of 12 documents, 0.02 instead of 0.268 {CLAIM.unit} ({CLAIM.quantity})."
    sizes = np.r_[30, np.ones(11, dtype=int)]  # a long document weighs no more than a short one
    long = Evidence(even.repeat(sizes), 0.0, documents.repeat(sizes), "documents")
    assert not decide(CLAIM, long).limits
    short = Evidence(uneven.repeat(sizes), 0.0, documents.repeat(sizes), "documents")
    assert "Without one of 12 documents" in decide(CLAIM, short).limits[0]
