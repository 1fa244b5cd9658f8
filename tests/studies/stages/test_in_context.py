"""Layers left out while prompts are solved: pairs with the intact model, prompt by prompt."""

import pytest

from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.patches import Drop
from mechicl.probes import SaliencyFlow
from mechicl.studies import lesioned_icl
from mechicl.studies.stages.in_context import LesionedLearning
from tests import tiny
from tests.random_prompts import random_prompts


def test_each_layer_is_left_out_in_turn():
    model, prompts = tiny.model("gpt2"), random_prompts(6, shots=2)
    result = lesioned_icl(model, prompts)
    summary = result.summary().set_index(["metric", "layer"])["mean"]
    assert summary["loyalty", -1] == 1
    assert summary["S_wp kept", -1] == pytest.approx(1)
    probe = SaliencyFlow()
    intact, lesioned = run(model, prompts, [probe]), run(model, prompts, [probe], [Drop(1)])
    same = (intact.predicted == lesioned.predicted).float().mean()
    assert summary["loyalty", 1] == pytest.approx(float(same))
    kept = lesioned[probe]["S_pq"].sum() / intact[probe]["S_pq"].sum()
    assert summary["S_pq kept", 1] == pytest.approx(float(kept), rel=1e-4)
    flows = intact[probe].frame().query("layer == 0").filter(like="S_")
    shares = flows["S_wp"] / flows.sum(axis=1)
    assert summary["S_wp share", 0] == pytest.approx(float(shares.mean()), rel=1e-4)
    assert "Label loyalty is lowest without layer 0 (67%" in result.finding()
    assert result.figure().data


def test_there_is_no_paper_to_follow():
    with pytest.raises(InputError, match="neither"):
        LesionedLearning("paper")
