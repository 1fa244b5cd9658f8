"""The claims of information flow and isolation: found in a model that learns in context, and in no untrained one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import mechicl as mi
from mechicl.metrics.resampling import SetInterval, against_few
from mechicl.models import untrained
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.isolation import Isolation
from tests import tiny


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


def test_without_twins_nothing_is_decided(flow: Any) -> None:
    for twins, reason in ((0, "was not measured"), (1, "A single untrained twin")):
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
    assert re.search(r"A constant answer keeps \d+% of predicted labels\.$", result.finding())


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("seed", [11, 12])
def test_an_untrained_model_supports_nothing(family: str, seed: int) -> None:
    twin, task = untrained(tiny.model(family), seed), mi.load_task("reviews")
    flow = InformationFlow().run(
        twin, task.prompts(tiny.tokenizer(), samples=8, seed=seed, demonstrations="per_prompt")
    )
    sets = [task.prompts(tiny.tokenizer(), samples=4, seed=seed) for seed in range(4)]
    assert "supported" not in outcomes(flow) + outcomes(Isolation(n_layers=(1,)).run(twin, sets))


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
