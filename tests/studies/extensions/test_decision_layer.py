"""When the answer is decided: the lens is the model's own path, and depths are what they are said to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mechicl as mi
from mechicl.studies.extensions.decision_layer import DecisionLayer, depths_of, with_margins
from tests import tiny
from tests.studies.extensions import plain

pytestmark = pytest.mark.filterwarnings("ignore:The tokenizer spells")


@pytest.mark.parametrize("family", tiny.cases)
def test_the_lens_is_a_plain_loop(family: str) -> None:
    """Each residual is put in the place of the last one, and the model reads it."""
    model, prompts = tiny.model(family), plain.prompts(2)
    table = DecisionLayer(untrained=0).run(model, prompts).table
    n, last = model.cfg.n_layers, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    points = [*(f"blocks.{layer}.hook_resid_pre" for layer in range(n)), last]
    for index, prompt in enumerate(prompts):
        rows = table[table["prompt"] == index]
        for point, resid in enumerate(plain.kept(model, prompt, points).values()):
            logits = plain.logits(model, prompt, [(last, lambda value, hook, resid=resid: resid)])
            expected = logits.log_softmax(-1)[list(prompt.label_ids)].detach()
            row = rows[rows["point"] == point].iloc[0]
            np.testing.assert_allclose(row["log_probs"], expected.numpy(), rtol=1e-4, atol=1e-4)
            sign = 1 if row["predicted"] == 0 else -1
            assert row["margin"] == pytest.approx(sign * float(expected[0] - expected[1]), abs=2e-4)


def test_reading_is_a_plain_backward_pass() -> None:
    model, prompt = tiny.model("llama"), plain.prompts(1)[0]
    table = DecisionLayer(untrained=0).run(model, [prompt]).table
    patterns: list[torch.Tensor] = []

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        pattern.retain_grad()
        patterns.append(pattern)

    hooks = [(f"blocks.{layer}.attn.hook_pattern", keep) for layer in range(model.cfg.n_layers)]
    leaf = ("hook_embed", lambda value, hook: value.detach().requires_grad_())
    answers = plain.logits(model, prompt, [leaf, *hooks])[list(prompt.label_ids)]
    (answers.sum() - 2 * answers.max()).backward()
    for layer, pattern in enumerate(patterns):
        assert pattern.grad is not None
        edges = (pattern * pattern.grad).detach()[0].sum(0).abs()[prompt.target]
        row = table[table["point"] == layer + 1].iloc[0]
        assert row["S_pq"] == pytest.approx(float(edges[list(prompt.anchors)].mean()), rel=1e-4)
        assert row["reading"] == pytest.approx(
            float(edges[list(prompt.anchors)].mean() / edges[: prompt.target].mean()), rel=1e-4
        )
    model.zero_grad()


def by_hand(differences: list[list[float]], read_in: int) -> pd.DataFrame:
    """Prompts whose lens is so far ahead for the first class at every point; all reading is in one layer."""
    rows = []
    for prompt, curve in enumerate(differences):
        for point, ahead in enumerate(curve):
            pair = torch.tensor([ahead / 2, -ahead / 2]).log_softmax(-1) + np.log(0.5 if point > 1 else 0.01)
            rows.append({
                "seed": 1, "demonstration_set": prompt, "prompt": prompt, "point": point,
                "predicted": int(curve[-1] < 0), "log_probs": pair.tolist(), "S_pq": float(point == read_in),
                "reading": 2.0, "reading_random_text": 0.0,
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_depths_by_their_definition() -> None:
    """One class is ahead in all prompts at all points; what distinguishes them comes between points 3 and 4."""
    table = by_hand([[5, 5, 5, 5, 7], [5, 5, 5, 5, 3]], read_in=2)
    assert (with_margins(table)["stays"] == 1).all(), "the lens always prefers the final answer"
    assert with_margins(table)["own_margin"].round(6).tolist() == [0, 0, 0, 0, 1] * 2
    depths = depths_of(table).iloc[0]
    assert depths.round(6).to_dict() == {"reading": 0.5, "decision": 1.0, "format": 0.5, "left": 1.0}
    early = depths_of(by_hand([[0, 2, 2, 2, 2], [0, -2, -2, -2, -2]], read_in=2)).iloc[0]
    assert (early["decision"], early["left"]) == (0.25, 0), "decided before it is read"


def test_a_prompt_without_an_own_margin_does_not_decide_the_mean() -> None:
    """Its final logits are next to the mean over prompts, so that earlier ones are hundreds of times as large."""
    table = by_hand([[0, 1, 2, 3, 4], [0, -1, -2, -3, -3.99], [0, 9, 9, 9, 0.001]], read_in=2)
    table = table.assign(model="m", task="t", shots=1, weights="as given", gold=0, margin=0.0)
    own = DecisionLayer().summary(table).query("metric == 'own_margin'").set_index("point")["mean"]
    assert own[4] == pytest.approx(1)
    assert own.abs().max() < 1.5


@pytest.fixture(scope="module")
def result() -> mi.Result:
    model = mi.load_model("tiny-icl")
    study = DecisionLayer()
    return study.run(model, study.prompts(mi.load_task("tiny-topics-4"), model.tokenizer, samples=12, seed=42))


def test_the_last_point_is_the_model(result: mi.Result) -> None:
    last = result.summary().query("point == point.max()").set_index(["weights", "metric"])["mean"]
    for weights in ("as given", "untrained"):
        assert last[weights, "final_answer"] == last[weights, "stays"] == 1
        assert last[weights, "own_margin"] == pytest.approx(1)
    assert last["as given", "reading"] > 3 * last["as given", "reading_random_text"]


def test_an_answer_that_comes_while_label_words_are_read_is_not_decided_behind_them(result: mi.Result) -> None:
    after = result.claims[0]
    assert after.outcome == "contradicted"
    assert after.n["prompts"] == 12
    assert "half of the reading" in after.note
    assert len(result.figure().data) > 8
    assert next(iter(result.study.tables(result).values()))["decision"].between(0, 1).all()
