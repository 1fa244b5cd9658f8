"""What a study will need is said before it begins: an order of magnitude, and what cannot fit is refused."""

from __future__ import annotations

import time

import pytest
import torch

from mechicl.errors import InputError
from mechicl.models import hooked
from mechicl.studies.estimate import Estimate, estimate, sequence_lengths
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.reweighting import Reweighting
from mechicl.studies.stages.lesions import Lesions
from tests import tiny
from tests.contract import catalogue
from tests.contract.state import differences, fingerprint
from tests.random_prompts import random_prompts

STUDIES = {study.name: study for study in catalogue.studies()}


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_study_on_a_tiny_model_takes_seconds(name: str) -> None:
    study, model = STUDIES[name], tiny.model("gpt2")
    told = study.estimate(model, catalogue.studied(study), batch_size=2)
    assert told.duration == "seconds"
    assert told.memory > 0


def test_time_grows_with_passes_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechicl.studies.estimate._seconds_a_token", lambda *_: 0.01)
    net = hooked(tiny.model("gpt2"))
    assert estimate(net, [20, 30], 4, 16).seconds == pytest.approx(2)
    words = [estimate(net, [20, 30], passes, 16).duration for passes in (1, 4e2, 4e4, 4e6)]
    assert words == ["seconds", "minutes", "hours", "days"]
    few, many = (Lesions(kinds=kinds).estimate(net, catalogue.text()) for kinds in (("drop",), ("drop", "swap")))
    assert many.seconds > few.seconds


def test_the_timed_pass_tells_a_slow_model_from_a_fast_one() -> None:
    net, prompts = hooked(tiny.fresh("gpt2")), random_prompts(4)
    fast = Isolation(n_layers=(1,)).estimate(net, prompts)
    with net.hooks([("hook_embed", lambda value, hook: time.sleep(0.5))]):
        slow = Isolation(n_layers=(1,)).estimate(net, prompts)
    assert slow.seconds > 3 * fast.seconds


def test_memory_follows_the_batch_and_the_gradients() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(4)
    plain, gradients = (
        study.estimate(model, prompts, batch_size=4) for study in (Isolation(n_layers=(1,)), InformationFlow())
    )
    assert gradients.memory > plain.memory
    half = InformationFlow().estimate(model, prompts, batch_size=2)
    assert half.memory == pytest.approx(gradients.memory / 2, rel=0.01)
    assert (plain.twins, gradients.twins) == (0, gradients.weights)
    assert "those of an untrained twin" in str(gradients)


def test_auxiliary_prompts_count() -> None:
    """More shots are longer than the prompts that they accompany: these must fit as well."""
    prompts = Reweighting(per_class=1, more_shots=2).prompts(catalogue.TASK, tiny.tokenizer(), seed=0, samples=3)
    assert len(prompts.auxiliary) >= 2
    assert len(sequence_lengths(prompts)) == len(prompts) + sum(map(len, prompts.auxiliary.values()))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bloom"])
def test_an_estimate_is_quick_and_leaves_the_model_alone(family: str) -> None:
    model = tiny.fresh(family).train()
    before = fingerprint(model)
    told = InformationFlow().estimate(model, catalogue.prompts())
    assert differences(before, fingerprint(model)) == []
    assert 0 < told.seconds < 60
    assert told.weights == 4 * sum(p.numel() for p in model.parameters())
    assert torch.is_grad_enabled()


def test_what_does_not_fit_is_refused_before_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = tiny.fresh("gpt2"), []
    monkeypatch.setattr("mechicl.studies.estimate.free_bytes", lambda device: 1000)
    with hooked(model).hooks([("hook_embed", lambda value, hook: ran.append(1))]):
        for door in (Lesions().run, Lesions().estimate):
            with pytest.raises(
                InputError, match="does not fit in this study: estimated memory 1 MiB, free memory 1 MiB"
            ):
                door(model, catalogue.text())
    assert not ran


def test_an_estimate_is_a_sentence() -> None:
    assert str(Estimate(3 * 2**30, 2**28, 2**34, 340.0)) == (
        "Estimated memory: 256 MiB plus 3.0 GiB of weights (16.0 GiB free). Estimated time: minutes (an order of magnitude)"
    )
