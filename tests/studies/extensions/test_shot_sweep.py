"""More demonstrations: one token's saliency is the whole pass's row, and sets are as many as fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mechicl as mi
from mechicl.engines.last_token import last_tokens
from mechicl.hooks import run
from mechicl.metrics.objective import Objective
from mechicl.patches import IsolateLabels
from mechicl.studies.extensions.shot_sweep import ShotSweep, reading_of
from tests import tiny
from tests.engines.test_compression import TASK
from tests.studies.extensions import plain

pytestmark = pytest.mark.filterwarnings("ignore:The tokenizer spells", "ignore:films")


@pytest.mark.parametrize("family", tiny.cases)
def test_saliency_of_the_last_token_is_a_plain_backward_pass(family: str) -> None:
    model, prompt = tiny.model(family), plain.prompts(1)[0]
    loss, patterns = Objective("logit_difference", "predicted"), dict[int, torch.Tensor]()
    (last,) = last_tokens(model, [prompt])
    ours, logits = last.saliency(model, loss)

    def keep(layer: int) -> Any:
        def see(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
            pattern.retain_grad()
            patterns[layer] = pattern
            return pattern

        return see

    hooks = [(name, keep(layer)) for layer, name in enumerate(plain.points(model, "attn.hook_pattern"))]
    leaf = ("hook_embed", lambda value, hook: value.detach().requires_grad_())
    answers = plain.logits(model, prompt, [leaf, *hooks])[None, list(prompt.label_ids)]
    loss(answers, torch.tensor([0])).sum().backward()
    torch.testing.assert_close(logits, answers.detach(), rtol=1e-4, atol=1e-4)
    for layer, pattern in patterns.items():
        assert pattern.grad is not None
        expected = (pattern * pattern.grad).detach()[0, :, prompt.target]
        torch.testing.assert_close(ours[layer], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-7)
    model.zero_grad()


def test_reading_by_its_definition() -> None:
    prompt = plain.prompts(1, shots=2)[0]
    edges = np.ones((6, len(prompt)))
    assert set(reading_of(prompt, edges, 0).values()) == {1.0}
    edges[3:5, prompt.anchors[-1]] = 5  # of the layers, 3 and 4 are deep
    edges[5] = 7
    told = reading_of(prompt, edges, prompt.anchor_classes[-1])
    average = (prompt.target + 4) / prompt.target
    assert told["reading"] == pytest.approx((3 + 5) / 4 / average)
    assert told["reading_last"] == pytest.approx(3 / average)
    assert told["reading_predicted"] == pytest.approx(3 / average)
    assert told["reading_first"] == told["reading_others"] == pytest.approx(1 / average)


def test_the_table_is_what_other_engines_give() -> None:
    model, study = tiny.model("gpt2"), ShotSweep(untrained=0, counts=(0, 2))
    sets = study.prompt_sets(TASK, tiny.tokenizer(), seeds=(0,), samples=4)
    table = study.run(model, sets).table
    zero, two = (table[table["shots"] == shots].sort_values("prompt") for shots in (0, 2))
    assert zero["predicted"].tolist() == run(model, sets[0]).predicted.tolist()
    assert zero["reading"].isna().all()
    clean = run(model, sets[1]).predicted
    assert two["predicted"].tolist() == clean.tolist()
    isolated = run(model, sets[1], patches=[IsolateLabels([0])]).predicted
    assert two["isolated"].tolist() == (isolated == clean).float().tolist()
    assert two["accuracy"].tolist() == (clean == sets[1].gold).float().tolist()
    assert zero["gold"].tolist() == two["gold"].tolist(), "the same texts are asked about"


def test_what_does_not_fit_is_left_out_and_said() -> None:
    study = ShotSweep(counts=(1, 2, 4))
    with pytest.warns(UserWarning, match="films is left out from 4 per class on"):
        sets = study.prompt_sets(TASK, tiny.tokenizer(), seeds=(0, 1), samples=4, n_ctx=150)
    assert [(one.shots, one.seed) for one in sets] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    with pytest.raises(mi.InputError):
        study.prompt_sets(TASK, tiny.tokenizer(), seeds=(0,), samples=4, n_ctx=20)


def test_wrong_labels_have_a_number_and_other_texts_are_refused() -> None:
    model, study = tiny.model("gpt2"), ShotSweep(untrained=2, counts=(2, 3))
    sets = study.prompt_sets(TASK, tiny.tokenizer(), seeds=(0, 1), samples=3, mislabelled=(1, 0))
    assert [one.n for one in study.run(model, sets).claims] == [{"sets": 2, "prompts": 6}] * 3
    with pytest.raises(mi.InputError, match="asks about the same texts"):
        study.prompt_sets(TASK, tiny.tokenizer(), seeds=(0,), samples=3, too_long="shorter", n_ctx=200)
    mixed = mi.PromptSet.of([*sets[0].prompts, *sets[2].prompts])
    with pytest.raises(mi.InputError, match="compares numbers of demonstrations"):
        study.run(model, mixed)


@pytest.fixture(scope="module")
def result() -> mi.Result:
    model, study = mi.load_model("tiny-icl"), ShotSweep(counts=(0, 1, 4))
    sets = study.prompt_sets(mi.load_task("tiny-topics-4"), model.tokenizer, seeds=(42, 43, 44, 45), samples=3)
    return study.run(model, sets)


def test_a_model_that_learns_in_context_reads_many_label_words(result: mi.Result) -> None:
    reads, _, learns = result.claims
    assert reads.outcome == "supported"
    assert reads.n == {"sets": 4, "prompts": 12}
    assert "Demonstrations per class: at most 4, at least 1." in reads.note
    assert learns.outcome != "supported", "one demonstration of each class is enough"
    mean = result.summary().set_index(["metric", "shots"])["mean"]
    assert mean["accuracy", 1] > 0.9 > 0.5 > mean["accuracy", 0]
    assert mean["isolated", 4] < mean["isolated_random_text", 4]
    assert mean["reading_predicted", 4] > mean["reading_others", 4]
    assert len(result.figure().data) > 8
