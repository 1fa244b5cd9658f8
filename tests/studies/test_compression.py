"""The compression study: its conditions, and what its summary averages."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mechicl.errors import InputError
from mechicl.studies import compression
from mechicl.studies.label_words.compression import Compression
from mechicl.studies.label_words.tables import TABLE_2
from tests import tiny
from tests.engines.test_compression import TASK, films


def test_full_context_is_loyal_to_itself_and_the_best_set_is_the_best() -> None:
    result = compression(tiny.model("gpt2"), films(), n_sets=4)
    mean = result.summary().set_index(["metric", "method", "kept", "positions"])["mean"]
    assert mean[("label_loyalty", "full context", "", "")] == 1
    assert mean[("word_loyalty_5", "full context", "", "")] == 1
    draws = Compression(n_sets=4).loyalty(result.table).query("method == 'hidden random'")
    by_set = draws.groupby("set")["label_loyalty"].mean()
    of_random = result.summary().query("method == 'hidden random' and metric == 'label_loyalty'")
    assert set(of_random["n"]) == {len(films())}, "sets share the prompts"
    anchors = result.table.query("method == 'hidden anchor'")["context_tokens"]
    assert set(draws["context_tokens"]) == set(anchors.iloc[: len(films())])
    assert len(by_set) == 4
    random = ("label+template", "original")
    assert mean[("label_loyalty", "hidden random", *random)] == pytest.approx(by_set.mean())
    assert mean[("label_loyalty", "hidden random, best set", *random)] == pytest.approx(by_set.max())
    assert set(result.summary()["method"]) == {*TABLE_2, "hidden anchor, read apart"}
    assert "The best control is" in " ".join(result.details())
    assert result.figure().data


def test_the_papers_protocol_follows_its_code() -> None:
    gpt2, gptj = (Compression("paper").conditions(tiny.model(family)) for family in ("gpt2", "gptj"))
    assert [c["positions"] for c in gpt2 if c["method"] == "hidden anchor"] == ["zero", "original"]
    assert [c["positions"] for c in gptj if c["method"] == "hidden anchor"] == ["original"]
    result = compression(tiny.model("gptj"), films(), n_sets=2, protocol="paper")
    assert set(result.summary()["method"]) == set(TABLE_2)


def test_unknown_labels_leave_accuracy_out() -> None:
    result = compression(tiny.model("gpt2"), films(), n_sets=1, kept=("label",), positions=("original",))
    result.table["gold"] = -1
    assert "accuracy" not in set(result.summary()["metric"])
    figure = result.figure()
    assert figure.data
    assert len(figure.layout.yaxis.categoryarray) == figure.layout.meta["height"] / 34


def test_the_majority_is_among_known_classes() -> None:
    result = compression(tiny.model("gpt2"), films(), n_sets=1, kept=("label",), positions=("original",))
    known = result.table["prompt"] == result.table["prompt"].max()
    result.table["gold"] = result.table["gold"].where(known, -1)
    assert set(result.summary().query("metric == 'majority_rate'")["mean"]) == {1.0}


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match=r"kept is .*; choose from label"):
        Compression(kept=())


def test_accuracy_stands_beside_macro_f1_the_majority_and_the_spread_over_seeds() -> None:
    sets = [TASK.prompts(tiny.tokenizer(), seed=seed) for seed in (0, 1)]
    result = compression(tiny.model("gpt2"), sets, n_sets=3, kept=("label",), positions=("original",))
    summary = result.summary().set_index(["metric", "method"])
    rows = result.table[result.table["method"] == "hidden random"]
    f1 = [f1_score(one["gold"], one["predicted"], average="macro") for _, one in rows.groupby(["seed", "set"])]
    assert summary.loc[("macro_f1", "hidden random"), "mean"] == pytest.approx(np.mean(f1))
    of_seeds = np.reshape(f1, (2, 3)).mean(1)
    assert summary.loc[("macro_f1", "hidden random"), "seed_sd"] == pytest.approx(of_seeds.std(ddof=1))
    assert list(summary.loc["majority_rate"].index) == ["full context"]
    most = np.mean([np.bincount(one.gold).max() / len(one) for one in sets])
    assert summary.loc[("majority_rate", "full context"), "mean"] == pytest.approx(most)
    whole = result.table[result.table["method"] == "full context"]
    right = (whole["gold"] == whole["predicted"]).groupby(whole["seed"]).mean()
    assert summary.loc[("accuracy", "full context"), "seed_sd"] == pytest.approx(right.std(ddof=1))
    assert "majority class" in {trace.name for trace in result.figure().data}
