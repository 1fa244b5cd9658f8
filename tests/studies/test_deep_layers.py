"""Deep layers: what its numbers are, and what happens where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.metrics import auroc_by_layer, bootstrap_auroc
from mechicl.probes import LabelAttention
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies import deep_layers, load_result
from mechicl.studies.label_words.deep_layers import AVERAGE, DeepLayers, attention_by_head
from tests import tiny
from tests.random_prompts import random_prompts


def several(shots: int = 1) -> list[PromptSet]:
    sets = []
    for task in ("one", "two"):
        for seed in (0, 1):
            prompts = random_prompts(12, shots=shots, seed=seed + 10 * (task == "two"))
            sets.append(replace(prompts, task=task, seed=seed))
    return sets


@pytest.mark.parametrize("shots", [1, 2])
def test_curves_average_over_seeds_and_then_tasks(shots: int) -> None:
    result = deep_layers(tiny.model("gpt2"), several(shots))
    mean = result.summary().pivot_table(index=["task", "metric"], columns="layer", values="mean")
    np.testing.assert_allclose(
        mean.loc[(AVERAGE, "AUCROC_gold")], (mean.loc[("one", "AUCROC_gold")] + mean.loc[("two", "AUCROC_gold")]) / 2
    )
    assert mean.loc[(AVERAGE, "R")].iloc[-1] == pytest.approx(1)
    excess = mean.loc[(AVERAGE, "AUCROC")] - 0.5
    np.testing.assert_allclose(mean.loc[(AVERAGE, "R")], excess.cumsum() / excess.sum())
    assert [verdict.about["task"] for verdict in result.claims] == ["one", "two"]
    assert result.figure().data


def test_heads_are_kept_and_add_up(tmp_path: Path) -> None:
    model, prompts = tiny.model("gpt2"), several()[0]
    result = deep_layers(model, prompts)
    probe = LabelAttention()
    expected = run(model, prompts, [probe])[probe].values.flatten(0, 1)
    np.testing.assert_allclose(attention_by_head(result.table), expected, rtol=1e-4, atol=1e-6)
    result.save(tmp_path)
    found = attention_by_head(load_result(tmp_path, "deep-layers").table)
    np.testing.assert_array_equal(found, attention_by_head(result.table))
    np.testing.assert_allclose(found.astype(float).sum(1), np.stack(result.table["attention"].to_list()))
    old = replace(result, table=result.table.drop(columns="attention_by_head"))
    assert old.figure().data
    with pytest.raises(InputError, match="run deep-layers again"):
        attention_by_head(old.table)


def test_the_head_that_reads_the_prediction_is_seen() -> None:
    result = deep_layers(tiny.model("gpt2"), replace(random_prompts(12), task="one", seed=0))
    table = result.table.assign(predicted=result.table["prompt"] % 2)
    by_head = np.random.default_rng(0).random((len(table), 4, 2)).astype(np.float32)
    by_head[table["layer"] == 1, 2] = np.eye(2)[table.loc[table["layer"] == 1, "predicted"]]
    table["attention_by_head"] = list(by_head.reshape(len(table), -1))
    grid = next(trace for trace in replace(result, table=table).figure().data if trace.type == "heatmap")
    assert np.asarray(grid.z).shape == (3, 4)
    assert grid.z[1][2] == 1
    assert (np.asarray(grid.z) == 1).sum() == 1


def planted(result: Result, sign: float) -> Result:
    """Attention in every layer goes to the class that is predicted (+), or to the other (-), with noise."""
    noise = np.random.default_rng(0).normal(0, 0.3, len(result.table))
    predicted = (result.table["prompt"] + result.table["seed"]) % 2
    second = 0.5 + sign * 0.3 * (2 * predicted - 1) + noise
    return replace(
        result, table=result.table.assign(predicted=predicted, attention=np.stack([1 - second, second], 1).tolist())
    )


def test_r_has_the_interval_of_resampled_curves_and_none_where_its_denominator_may_be_zero() -> None:
    result = deep_layers(tiny.model("gpt2"), several())
    for known, one in ((True, planted(result, 1)), (False, planted(result, 0)), (False, planted(result, -1))):
        summary = one.summary()
        of_r = summary[summary["metric"].isin(["R", "R_clipped"])]
        assert of_r["low"].notna().all() == of_r["low"].notna().any() == known
        assert not known or (of_r["low"] <= of_r["high"]).all()
        of_r = of_r[of_r["metric"] == "R"]
        np.testing.assert_allclose(of_r[of_r["layer"] == of_r["layer"].max()]["mean"], 1)
        names = {trace.name or "" for trace in one.figure().data}
        assert any(name.startswith("R, share") for name in names) == known
    summary = result.summary()
    of_auroc = summary[summary["metric"] == "AUCROC"]
    assert (of_auroc["seed_sd"].notna() == (of_auroc["task"] != AVERAGE)).all()


def test_a_class_never_predicted_is_named_not_averaged() -> None:
    result = deep_layers(tiny.model("gpt2"), several())
    single = (result.table["task"] == "one") & (result.table["seed"] == 0)
    table = result.table.assign(predicted=result.table["predicted"].where(~single, 1))
    changed = replace(result, table=table)
    assert "one, seed 0" in changed.finding()
    seeds = changed.summary().set_index(["task", "metric"])["seeds"]
    assert seeds[("one", "AUCROC")].max() == 1
    assert seeds[("one", "AUCROC_gold")].min() == 2
    nothing = table.assign(predicted=1, gold=-1)
    with pytest.raises(InputError, match="no AUROC is defined"):
        DeepLayers().summary(nothing)
    assert all(verdict.outcome == "undecided" for verdict in replace(result, table=table.assign(predicted=1)).claims)
    only_gold = replace(result, table=table.assign(predicted=1))
    assert set(only_gold.summary()["metric"]) == {"AUCROC_gold", "R_gold", "R_gold_clipped"}
    assert only_gold.figure().data
    assert "a single class" in only_gold.finding()


def test_some_classes_never_predicted_are_counted() -> None:
    prompts = replace(random_prompts(12, n_classes=3), task="three", seed=0)
    result = deep_layers(tiny.model("gpt2"), prompts)
    table = result.table.assign(predicted=result.table["prompt"] % 2)
    assert "never predicted are left out: 1 of 3 in three, seed 0" in replace(result, table=table).finding()
    assert "never predicted" not in replace(result, table=table.assign(predicted=table["prompt"] % 3)).finding()


@pytest.mark.parametrize("demonstrations", ["per_seed", "per_prompt"])
def test_a_planted_relation_is_supported_its_reverse_contradicted_and_none_undecided(demonstrations: str) -> None:
    sets = [replace(random_prompts(24, seed=seed), task="one", seed=seed) for seed in range(4)]
    result = deep_layers(tiny.model("gpt2"), sets)
    if demonstrations == "per_seed":  # as if all prompts of a seed had the same demonstrations
        result = replace(result, table=result.table.assign(demonstration_set=0))
    outcomes = {}
    for sign in (1, 0, -1):
        (verdict,) = planted(result, sign).claims
        outcomes[sign] = verdict.outcome
        assert verdict.n == {"sets": 4 if demonstrations == "per_seed" else 96, "prompts": 96}
        assert verdict.low < verdict.effect < verdict.high
    assert (outcomes[1], outcomes[-1]) == ("supported", "contradicted")
    assert outcomes[0] != "supported"
    assert "the rarest predicted class has at least 12 prompts" in verdict.note


def test_chance_is_told_as_chance() -> None:
    result = deep_layers(tiny.model("gpt2"), replace(random_prompts(12), task="one", seed=0))
    table = result.table.assign(predicted=result.table["prompt"] % 2)
    alike = replace(result, table=table.assign(attention=[[1.0, 1.0]] * len(table)))
    assert alike.summary().query("metric == 'AUCROC'")["mean"].eq(0.5).all()
    assert alike.claims[0].effect == 0
    names = {trace.name for trace in alike.figure().data}
    assert not any(name and name.startswith("R") for name in names), "a share of nothing is not drawn"


@pytest.mark.parametrize("protocol", ["paper", "corrected"])
def test_r_of_a_task_is_of_its_curve_raw_and_clipped(protocol: Any) -> None:
    summary = deep_layers(tiny.model("gptj"), several(), protocol=protocol).summary()
    for task in ("one", AVERAGE):
        for target in ("", "_gold"):
            of = {m: rows["mean"].to_numpy() for m, rows in summary[summary["task"] == task].groupby("metric")}
            excess = of[f"AUCROC{target}"] - 0.5
            np.testing.assert_allclose(of[f"R{target}"], excess.cumsum() / excess.sum())
            clipped = excess.clip(0)
            np.testing.assert_allclose(of[f"R{target}_clipped"], clipped.cumsum() / clipped.sum())


def test_a_class_without_a_demonstration_is_refused() -> None:
    prompts = PromptSet.of([Prompt.from_positions(range(9), [[3], []], [0, 1], 0)])
    with pytest.raises(InputError, match="Every class needs a demonstration"):
        deep_layers(tiny.model("gpt2"), prompts)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_resampled_aurocs_are_those_of_the_resampled_prompts(n_classes: int) -> None:
    torch.manual_seed(0)
    attention, target = torch.rand(40, 3, n_classes), torch.arange(40) % n_classes
    attention[:5] = attention[5:10]  # ties
    draws = bootstrap_auroc(attention, target, generator=np.random.default_rng(1), resamples=3)
    counts = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=3)
    for row, drawn in zip(draws, counts, strict=True):
        index = torch.tensor(np.repeat(np.arange(40), drawn))
        torch.testing.assert_close(row, auroc_by_layer(attention[index], target[index]).values)


def test_scaling_attention_changes_nothing() -> None:
    result = deep_layers(tiny.model("gpt2"), several())
    scaled = result.table.assign(attention=[np.multiply(7, row).tolist() for row in result.table["attention"]])
    pd.testing.assert_frame_equal(DeepLayers().summary(scaled), result.summary())
