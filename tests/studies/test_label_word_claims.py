"""Verdicts of the studies of label words: planted effects come out right and reversed; random models support nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechicl.results import Result
from mechicl.studies.extensions.anchor_sweep import AnchorSweep
from mechicl.studies.label_words.anchor_kinds import AnchorKinds
from mechicl.studies.label_words.compression import Compression
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.pairs import REAL, heat_map, pair_matrix
from mechicl.studies.label_words.predictions import PredictionStudy
from mechicl.studies.label_words.reweighting import Reweighting
from mechicl.studies.study import Study
from tests import tiny

SEEDS, PROMPTS = 8, 24
Lost = Callable[[Mapping[str, Any]], float]


def outcomes(study: Study, table: pd.DataFrame) -> dict[str, str]:
    return {one.claim.id: one.outcome for one in Result(study, table, {}).claims}


def rows_of(condition: Mapping[str, Any], right: np.ndarray, gold: np.ndarray) -> pd.DataFrame:
    """Where a prompt is not right it has the other class and ten other words."""
    index = np.arange(SEEDS * PROMPTS)
    return pd.DataFrame({
        "model": "m", "task": "t", "seed": index // PROMPTS, "shots": 1, **condition, "prompt": index % PROMPTS,
        "demonstration_set": 0, "gold": gold, "predicted": np.where(right, gold, 1 - gold),
        "top_tokens": [list(range(10) if one else range(10, 20)) for one in right], "set": 0, "context_tokens": 10,
    })  # fmt: skip


def predictions(study: PredictionStudy, lost: Lost, classes: int = 2) -> pd.DataFrame:
    """A table in which each condition changes so large a share of the clean predictions."""
    generator, gold = np.random.default_rng(0), np.arange(SEEDS * PROMPTS) % classes
    parts = []
    for number, condition in enumerate(study.conditions(tiny.model("gpt2"))):
        share = 0.0 if number == 0 else lost(condition)
        parts.append(rows_of(condition, generator.random(len(gold)) >= share, gold))
    return pd.concat(parts, ignore_index=True)


def isolated(first: float, of_others: Mapping[str, float] | None = None) -> Lost:
    """Label words isolated in the first layers lose so much, in some modes another share; the controls lose 0.1."""

    def lost(condition: Mapping[str, Any]) -> float:
        tokens, _, mode = condition["isolated"].partition(" (")
        shares = {"random edges": 0.1, **(of_others or {})}
        if tokens != "label words" or condition["where"] == "last":
            return shares.get(tokens, 0.1)
        return shares.get(mode.rstrip(")"), first)

    return lost


@pytest.mark.parametrize(("first", "of_others", "outcome", "reason"), [
    (0.6, {}, "supported", ""),
    (0.6, {"postsoftmax_zero": 0.4}, "supported", ""),
    (0.6, {"postsoftmax_zero": 0.02}, "undecided", "supported in presoftmax, contradicted in postsoftmax_zero."),
    (0.6, {"postsoftmax_zero": 0.15}, "undecided", "includes 0 in postsoftmax_zero; use more seeds"),
    (0.6, {"exchange": 0.02}, "supported", ""),
    (0.6, {"random edges": 0.7}, "undecided", "contradicted in presoftmax against random edges"),
    (0.02, {"postsoftmax_zero": 0.6}, "undecided", "contradicted in presoftmax, supported in postsoftmax_zero"),
    (0.02, {}, "contradicted", ""),
])  # fmt: skip
def test_isolation_has_one_verdict_over_its_modes(
    first: float, of_others: Mapping[str, float], outcome: str, reason: str
) -> None:
    """A control that isolates in a single mode would find the effect in the third and fourth line, too."""
    study = Isolation(n_layers=(1,))
    table = predictions(study, isolated(first, of_others)).assign(model_layers=3)
    found = [one for one in Result(study, table, {}).claims if not one.claim.id.endswith("-depth")]
    assert {one.outcome for one in found} == {outcome}
    assert all(reason in one.reason for one in found)
    for claim, note in ((one.claim, one.note) for one in found):
        assert f"{claim.quantity[0].upper()}{claim.quantity[1:]}, in shares {claim.unit}, by mode: presoftmax " in note
    exchanged = of_others.get("exchange", first)
    assert all(("little beyond their class" in " ".join(one.limits)) == (exchanged < 0.1) for one in found)
    alone = Isolation(n_layers=(1,), modes=("presoftmax",))
    if "postsoftmax_zero" in of_others and first > 0.1:
        assert set(outcomes(alone, table).values()) == {"supported"}, "the control"


def compressed(anchors: float, controls: float) -> Lost:
    return lambda condition: anchors if condition["method"] == "hidden anchor" else controls


@pytest.mark.parametrize(("anchors", "controls", "outcome"), [
    (0.1, 0.6, "supported"), (0.6, 0.1, "contradicted"), (0.1, 0.03, "undecided"),
])  # fmt: skip
def test_compression(anchors: float, controls: float, outcome: str) -> None:
    table = predictions(Compression(), compressed(anchors, controls))
    assert outcomes(Compression(), table) == {"compression": outcome}


def test_a_constant_answer_is_a_control_of_compression() -> None:
    """Loyal anchors prove nothing where a constant answer is as loyal."""
    table = predictions(Compression(), compressed(0.1, 0.6), classes=1)
    (verdict,) = Result(Compression(), table, {}).claims
    assert verdict.outcome == "undecided"
    assert "constant answer" in verdict.numbers()


@pytest.mark.parametrize(("shallow", "deep", "random", "outcome"), [
    (0.6, 0.1, 0.1, "supported"), (0.1, 0.6, 0.1, "contradicted"), (0.6, 0.1, 0.6, "not supported"),
])  # fmt: skip
def test_anchor_sweep(shallow: float, deep: float, random: float, outcome: str) -> None:
    """In the last line random tokens matter as much in shallow layers: then it is not about label words."""

    def lost(condition: Mapping[str, Any]) -> float:
        first = condition["layer"] == 0
        return {"label words": shallow if first else deep, "random text": random if first else 0.1}.get(
            condition["isolated"], 0.1
        )

    (found,) = outcomes(AnchorSweep(), predictions(AnchorSweep(), lost)).values()
    assert found == outcome or (outcome == "not supported" and found != "supported")


@pytest.mark.parametrize(("label", "other", "outcome"), [(0.7, 0.2, "supported"), (0.2, 0.7, "contradicted")])
def test_anchor_kinds(label: float, other: float, outcome: str) -> None:
    table = predictions(AnchorKinds(), lambda condition: label if condition["kind"] == "label words" else other)
    table = table.assign(kind_tokens=1)
    assert outcomes(AnchorKinds(), table) == {"anchor-kinds-text": outcome, "anchor-kinds-separators": outcome}


@pytest.mark.parametrize(("fitted", "others", "outcome"), [(0.9, 0.6, "supported"), (0.5, 0.8, "contradicted")])
def test_reweighting(fitted: float, others: float, outcome: str) -> None:
    study, generator, gold = Reweighting(), np.random.default_rng(0), np.arange(SEEDS * PROMPTS) % 2
    parts = [
        rows_of(
            one, generator.random(len(gold)) < (fitted if one["method"].startswith("re-weighted") else others), gold
        )
        for one in study.conditions(None)
    ]
    table = pd.concat(parts, ignore_index=True)
    found = outcomes(study, table)
    assert set(found.values()) == {outcome}
    assert len(found) == 4
    no_errors = table.assign(predicted=table["predicted"].where(table["method"] != "vanilla", table["gold"]))
    assert set(outcomes(study, no_errors).values()) == {"undecided"}
    few = table[table["method"].isin(["vanilla", "re-weighted"])]
    assert outcomes(study, few)["reweighting-biases"] == "undecided"


def distances(sign: float, confused: bool = True, seeds: int = 3) -> pd.DataFrame:
    """Six classes in 8 contexts of 2 layers, whose distances in layer 1 go with real confusion, against it, or not."""
    generator, names = np.random.default_rng(0), list("abcdef")
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    real = generator.uniform(0.5, 1, len(pairs)) if confused else np.ones(len(pairs))
    rows = [(0, REAL, 0, *pair, value) for pair, value in zip(pairs, real, strict=True)]
    for context in range(8):
        for layer in (0, 1):
            noise = generator.uniform(0, 0.2 if layer else 1, len(pairs))
            values = 2 + (sign * layer) * real + noise
            rows += [(context, layer, 10, *pair, value) for pair, value in zip(pairs, values, strict=True)]
    columns = ["context", "layer", "components", "class_a", "class_b", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(model="m", task="t", shots=1)
    return pd.concat([table.assign(seed=seed, value=table["value"] * (1 + seed / 100)) for seed in range(seeds)])


def test_error_diagnosis() -> None:
    study = ErrorDiagnosis()
    assert outcomes(study, distances(1)) == {"error-diagnosis": "supported"}
    assert outcomes(study, distances(-1)) == {"error-diagnosis": "contradicted"}
    assert outcomes(study, distances(0)) != {"error-diagnosis": "supported"}
    assert outcomes(study, distances(1, confused=False)) == {"error-diagnosis": "undecided"}
    assert outcomes(study, distances(1, seeds=1)) == {"error-diagnosis": "undecided"}, "contexts share their prompts"
    in_shallow = replace(study, layer=0)
    assert outcomes(in_shallow, distances(1)) != {"error-diagnosis": "supported"}


def test_a_pair_without_prompts_is_empty_in_the_heat_map() -> None:
    rows = distances(1).query("layer == @REAL").set_index(["class_a", "class_b"])["value"]
    rows[("a", "b")] = np.nan
    drawn = heat_map(pair_matrix(rows), 0.5)
    assert drawn.text[0][1] == drawn.text[1][0] == ""
    assert drawn.text[0][2] != ""
