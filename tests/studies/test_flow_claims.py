"""The claims of information flow and isolation: found in a model that learns in context, and in no untrained one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import mechicl as mi
from mechicl.cli.options import OnPrompts
from mechicl.metrics.resampling import SetInterval, against_few
from mechicl.results import Cells
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.study import Protocol


@pytest.fixture(scope="module")
def model() -> Any:
    return mi.load_model("tiny-icl")


def outcomes(result: Any) -> list[str]:
    return [verdict.outcome for verdict in result.claims]


@pytest.fixture(scope="module")
def flow(model: Any) -> Any:
    prompts = mi.load_task("tiny-topics-4").prompts(model.tokenizer, samples=12, demonstrations="per_prompt")
    return InformationFlow().run(model, prompts)


def test_flow_is_found_where_it_is(model: Any, flow: Any) -> None:
    assert outcomes(flow) == ["supported", "supported"]
    assert flow.finding().count("Supported: ") == 2
    assert len(flow.table) == 2 * 12 * model.cfg.n_layers
    assert set(flow.summary()["n"]) == {12}  # shares are of the model as given
    assert len(flow.figure().layout.annotations) >= 2


def test_reading_takes_over_where_both_are_found(flow: Any) -> None:
    assert "Reading takes over from gathering in layer 1 [1, 1]." in " ".join(flow.details())
    one_set = type(flow)(flow.study, flow.table.assign(demonstration_set=0), {})
    assert "takes over" not in " ".join(one_set.details())


def test_a_model_must_show_it_itself(flow: Any) -> None:
    """Twins in which label words gather less than text support nothing; those that are alike contradict nothing."""
    of_model, label = flow.table["weights"] == "as given", "gathering_label_words"

    def gathering(model: float, twins: float) -> str:
        noise = 0.01 * np.random.default_rng(0).standard_normal(len(flow.table))
        excess = np.where(of_model, model, twins) + noise
        table = flow.table.assign(**{label: 2 + excess, "gathering_random_text": 2.0})
        return outcomes(type(flow)(flow.study, table, {}))[0]

    assert gathering(1.0, 0.0) == "supported"
    assert gathering(-0.3, -0.9) == "contradicted"
    assert gathering(1.0, 1.0) == "undecided"


def test_python_and_the_command_line_draw_the_same_prompts(model: Any) -> None:
    """Fresh demonstrations for every prompt, as the authors; and the place of the study says so."""
    task, study = mi.load_task("tiny-topics-4"), InformationFlow()
    asked = OnPrompts(
        model="tiny-icl", out=Path(), task=task.name, samples=4, seeds="42", **study.shared_options
    ).material(study, model)
    ours = study.prompts(task, model.tokenizer, samples=4, seed=42, n_ctx=model.cfg.n_ctx)
    assert [one.digest() for one in asked] == [ours.digest()]
    assert ours.origin["demonstrations"] == "per_prompt"
    assert Isolation().prompts(task, model.tokenizer, samples=4).origin["demonstrations"] == "per_seed"


def test_both_protocols_measure_the_same_cells_and_conclude_each_its_way(model: Any, tmp_path: Path) -> None:
    prompts = mi.load_task("tiny-topics-4").prompts(model.tokenizer, samples=4, demonstrations="per_prompt")
    cells = Cells(tmp_path)
    results = [
        InformationFlow(protocol, untrained=0).run(model, prompts, cells=cells) for protocol in get_args(Protocol)
    ]
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    one, other = (result.summary()["mean"].to_numpy() for result in results)
    assert np.abs(one - other).max() > 1e-6


def test_without_twins_nothing_is_decided(flow: Any) -> None:
    for twins, reason in ((0, "was not measured"), (1, "One untrained twin")):
        kept = flow.table["weights"].isin(["as given", *(f"untrained {seed}" for seed in range(twins))])
        few = type(flow)(flow.study, flow.table[kept], {})
        assert outcomes(few) == ["undecided", "undecided"]
        assert all(reason in verdict.reason for verdict in few.claims)


def test_flow_reversed_is_contradicted(flow: Any) -> None:
    """The control: text in the place of label words."""
    swapped = {
        f"{kind}_{one}": f"{kind}_{other}"
        for kind in ("reading", "gathering")
        for one, other in (("label_words", "random_text"), ("random_text", "label_words"))
    }
    assert outcomes(type(flow)(flow.study, flow.table.rename(columns=swapped), {})) == ["contradicted"] * 2


def test_isolation_is_found_where_it_is(model: Any) -> None:
    task = mi.load_task("tiny-topics-4")
    prompts = [task.prompts(model.tokenizer, samples=6, seed=seed) for seed in range(42, 46)]
    result = Isolation(n_layers=(3,)).run(model, prompts)
    assert outcomes(result) == ["supported"] * 4
    assert {verdict.about["mode"] for verdict in result.claims} == {"presoftmax"}
    assert 0.25 <= result.study.floor(result.table) < 0.7
    assert re.search(r"A constant answer keeps \d+% of predicted labels\.", " ".join(result.details()))


def test_an_interval_over_few_nulls_covers_another_draw() -> None:
    """An untrained model against four untrained twins is outside in one case of twenty; against their mean in many."""
    generator, covered, naive = np.random.default_rng(0), 0, 0
    for draw in generator.normal(size=(400, 5)):
        effect = draw[0] - draw[1:].mean()
        interval = against_few(SetInterval(effect, effect - 0.1, effect + 0.1, 8, 8), draw[1:])
        covered += interval.low <= 0 <= interval.high
        naive += abs(effect) <= 0.1
    assert 0.92 * 400 <= covered < 0.99 * 400
    assert naive < 0.2 * 400
