"""Sub-joiner heads, selected on one half of all words and tested on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mechicl.corpora import TokenCorpus
from mechicl.hooks import run
from mechicl.probes.sub_joiner import SUB_JOINER_QUANTITIES, SubJoiner
from mechicl.readings import Reading
from mechicl.studies.stages.sequences import weighted_means, weighted_summary

HEAD = ["model", "pieces", "layer", "head"]
LEAST_WORDS = 20
"""Least number of words of a length to select heads on, and the same number to test them on."""


def measure_heads(model: Any, corpus: TokenCorpus, pieces: Sequence[int], batch_size: int) -> pd.DataFrame:
    """A row per sequence, word length, layer and head: means over held-out words, and the score for selection."""
    probes = [SubJoiner(n) for n in pieces]
    readings = run(model, corpus, probes, batch_size=batch_size)
    return pd.concat([_table(readings[probe]).assign(pieces=probe.pieces) for probe in probes], ignore_index=True)


def _table(reading: Reading) -> pd.DataFrame:
    table = reading.frame()
    choose, judge = (table[table["half"] == half].reset_index(drop=True) for half in (0, 1))
    chosen = judge[["sequence", "layer", "head", *SUB_JOINER_QUANTITIES]]
    score = choose["mass"] - choose["control"]
    return chosen.assign(score_to_choose=score, words_to_choose=choose["words"], words=judge["words"])


def ranked_heads(rows: pd.DataFrame, least: int = 1) -> pd.DataFrame:
    """Every head: model, pieces, layer, head, score_to_choose, and on held-out words auroc, mass, control, first_bias,
    score (mass - control) and words; per word length in descending order of the score on the other half.

    A head with hardly any mass may still have a large AUROC. Lengths with fewer than `least` words in either half are
    left out.
    """
    weights = {**dict.fromkeys(SUB_JOINER_QUANTITIES, "words"), "score_to_choose": "words_to_choose"}
    means = weighted_means(rows, weights, HEAD)
    means = means[means["words"].ge(least) & means["words_to_choose"].ge(least)]
    ranked = means.assign(score=means["mass"] - means["control"])
    order = ["model", "pieces", "score_to_choose"]
    return ranked.sort_values(order, ascending=[True, True, False], kind="stable", ignore_index=True)


def best_of_layers(ranked: pd.DataFrame) -> pd.DataFrame:
    """The first of each layer's heads, per word length."""
    return ranked.drop_duplicates(["model", "pieces", "layer"]).sort_values(HEAD, ignore_index=True)


def judged(rows: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Means of the selected heads on held-out words: model, pieces, head, metric, layer, mean, low, high, n, seeds.

    The metric `score` is mass less control.
    """
    chosen_rows = rows.merge(chosen[HEAD], on=HEAD)
    scored = chosen_rows.assign(score=chosen_rows["mass"] - chosen_rows["control"])
    weights = dict.fromkeys((*SUB_JOINER_QUANTITIES, "score"), "words")
    return weighted_summary(scored, weights, ["model", "pieces", "head"])
