"""What too small or too uniform a sample allows: nothing without demonstrations, no verdict on four prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import mechicl as mi
from mechicl.claims import Claim, Evidence, decide
from mechicl.prompts import PromptSet
from mechicl.studies.label_words.anchor_kinds import AnchorKinds
from mechicl.studies.sampled import remarks_on
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
    with pytest.raises(mi.InputError, match="single one; use a deeper model"):
        LesionedLearning().conditions(model)


@pytest.mark.parametrize(("n", "outcome"), [(4, "undecided"), (5, "supported")])
def test_fewer_than_five_prompts_decide_nothing(n: int, outcome: str) -> None:
    values = np.full(n, 0.9) + np.arange(n) / 100
    assert decide(CLAIM, Evidence(values, 0.0, np.arange(n))).outcome == outcome


@pytest.mark.parametrize(("gold", "predicted", "n_layers", "said"), [
    ([2, 2], [0, 1, 0], 6, "rests on 4 prompts of t;"),
    ([8, 0], [0, 1, 0], 6, "All prompts of t ask about the class a;"),
    ([4, 4], [1, 1, 1], 6, "The model never predicts a on t."),
    ([4, 4], [0, 1, 0], 1, "The model has a single layer"),
    ([4, 4], [0, 1, 0], 6, ""),
    ([0, 0], [0, 1, 0], 6, ""),
])  # fmt: skip
def test_what_a_reader_must_know(gold: list[int], predicted: list[int], n_layers: int, said: str) -> None:
    halves = [{"task": "t", "class_names": ["a", "b"], "prompts": max(sum(gold), 8 * (not any(gold))) // 2,
               "gold": [count // 2 for count in gold]}] * 2  # fmt: skip
    clean = pd.DataFrame({"task": "t", "predicted": predicted})
    remarks = remarks_on({"prompts": halves, "model": {"n_layers": n_layers}}, clean, clean)
    assert len(remarks) == bool(said)
    assert said in "".join(remarks)


def test_what_a_reader_must_know_is_in_the_finding_and_in_every_verdict() -> None:
    result = AnchorKinds().run(tiny.model("gpt2"), prompts(samples=3))
    assert result.finding().count("rests on 3 prompts of reviews") == 1
    assert all("rests on 3 prompts of reviews" in " ".join(one.limits) for one in result.claims)
