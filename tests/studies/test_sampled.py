"""What too small or too uniform a sample allows: nothing without demonstrations, no verdict on four prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mechicl as mi
from mechicl.claims import Claim, Evidence, decide
from mechicl.prompts import PromptSet
from mechicl.studies.label_words.anchor_kinds import AnchorKinds
from mechicl.studies.stages.in_context import LesionedLearning
from mechicl.studies.study import STUDIES
from tests import tiny

CLAIM = Claim("c", "It is so.", "here", "effect", "of it", "nothing", 0.1)


def prompts(shots: int = 1, **options: Any) -> PromptSet:
    with pytest.warns(UserWarning, match="spells"):
        return mi.load_task("reviews").prompts(tiny.tokenizer(), shots=shots, **{"samples": 6, **options})


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.reads == "prompts"])
def test_a_study_of_label_words_refuses_prompts_without_demonstrations(name: str) -> None:
    with pytest.raises(mi.InputError, match=f"{name} reads the demonstrations .* none; use shots=1"):
        STUDIES[name]().run(tiny.model("gpt2"), prompts(shots=0))


def test_a_layer_cannot_be_left_out_of_a_model_of_one() -> None:
    model = tiny.fresh("gpt2")
    model.cfg.n_layers = 1
    with pytest.raises(mi.InputError, match="single one; take a deeper model"):
        LesionedLearning().conditions(model)


@pytest.mark.parametrize(("n", "outcome"), [(4, "undecided"), (5, "supported")])
def test_fewer_than_five_prompts_decide_nothing(n: int, outcome: str) -> None:
    values = np.full(n, 0.9) + np.arange(n) / 100
    assert decide(CLAIM, Evidence(values, 0.0, np.arange(n))).outcome == outcome


@pytest.mark.parametrize(("chosen", "said"), [
    (lambda whole: whole.select(range(3)), "rests on 3 prompts of reviews"),
    (lambda whole: whole.select([i for i, one in enumerate(whole) if one.gold == 0]), "All prompts of reviews ask about"),
    (lambda whole: whole, "The model never predicts"),
])  # fmt: skip
def test_what_a_reader_must_know_is_in_the_finding_and_in_every_verdict(
    chosen: Callable[[PromptSet], PromptSet], said: str
) -> None:
    result = AnchorKinds().run(tiny.model("gpt2"), chosen(prompts(samples=12)))
    assert result.finding().count(said) == 1
    assert all(said in one.note for one in result.claims)
