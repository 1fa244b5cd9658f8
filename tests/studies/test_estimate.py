"""What a study will need is said before it begins: it follows what is really computed, and what cannot fit is refused."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from mechicl.errors import InputError
from mechicl.models import hooked
from mechicl.studies.estimate import Estimate
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.study import Study
from mechicl.studies.work import Extent, Work
from tests import tiny
from tests.contract import catalogue
from tests.contract.state import differences, fingerprint
from tests.random_prompts import random_prompts

STUDIES = {study.name: study for study in catalogue.studies()}


def expected(study: Study, model: Any, material: Any) -> float:
    net = hooked(model)
    work = study.work(net.sizes, material)
    extent = Extent.of([part.material for part in study._parts(material)[0]], net.tokenizer)
    return extent.flops(work, net.sizes) + 2 * extent.rows(work) * net.sizes.d_model * net.sizes.d_vocab


@pytest.mark.parametrize("name", list(STUDIES))
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_work_of_every_study_is_what_it_computes(name: str, family: str) -> None:
    """PyTorch's own counter of matrix products, to a factor of two."""
    study, model = STUDIES[name], tiny.model(family)
    material = catalogue.studied(study)
    # a random model errs alike on all classes, which error diagnosis says when all is computed
    with FlopCounterMode(display=False) as counter, suppress(*[InputError] if name == "error-diagnosis" else []):
        study.run(model, material, batch_size=2)
    ratio = expected(study, model, material) / counter.get_total_flops()
    assert 0.5 < ratio < 2, f"{ratio:.2f} of what it computes"


def test_prompts_that_share_demonstrations_are_counted_so() -> None:
    prompts = catalogue.prompts()
    sizes, extent = hooked(tiny.model("gpt2")).sizes, Extent.of([prompts], None)
    whole, shared, asked = (extent.flops(Work(**{kind: 1}), sizes) for kind in ("passes", "shared", "asked"))
    assert asked < shared < whole
    alone = Extent.of([prompts[:1]], None)
    assert alone.flops(Work(shared=1), sizes) == pytest.approx(alone.flops(Work(passes=1), sizes), rel=1e-9)


def test_more_of_it_takes_longer() -> None:
    """Twice the prompts, twice the work; more lesions, more of it; memory follows the batch and the gradients."""
    model, prompts = tiny.model("gpt2"), random_prompts(4)
    one, two = (Isolation(n_layers=(1,)).estimate(model, material) for material in ([prompts], [prompts, prompts]))
    assert two.flops == pytest.approx(2 * one.flops)
    few, many = (Lesions(kinds=kinds).estimate(model, catalogue.text()) for kinds in (("drop",), ("drop", "swap")))
    assert many.flops > few.flops
    assert many.memory > few.memory
    plain, gradients = (
        study.estimate(model, prompts, batch_size=4) for study in (Isolation(n_layers=(1,)), InformationFlow())
    )
    assert gradients.memory > plain.memory
    assert InformationFlow().estimate(model, prompts, batch_size=2).memory == pytest.approx(
        gradients.memory / 2, rel=0.01
    )


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bloom"])
def test_an_estimate_is_quick_and_leaves_the_model_alone(family: str) -> None:
    model = tiny.fresh(family).train()
    before, start = fingerprint(model), time.perf_counter()
    told = InformationFlow().estimate(model, catalogue.prompts())
    assert time.perf_counter() - start < 1
    assert differences(before, fingerprint(model)) == []
    assert 0 < told.seconds < 60
    assert told.weights == 4 * sum(p.numel() for p in model.parameters())


def test_what_does_not_fit_is_refused_before_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = tiny.fresh("gpt2"), []
    monkeypatch.setattr("mechicl.studies.estimate.free_bytes", lambda device: 1000)
    with hooked(model).hooks([("hook_embed", lambda value, hook: ran.append(1))]):
        for door in (Lesions().run, Lesions().estimate):
            with pytest.raises(InputError, match="needs about 1 MiB in this study and model, and 1 MiB are free"):
                door(model, catalogue.text())
    assert not ran


def test_an_estimate_is_a_sentence() -> None:
    told = str(Estimate(3 * 2**30, 2**28, 2**34, 4.2e12, 340.0, "the training of probes"))
    assert told == (
        "about 256 MiB of memory beside the weights' 3.0 GiB, 16.0 GiB are free; about 6 minutes (4.2 TFLOP; a block "
        "and the unembedding were timed here, the training of probes not counted)"
    )
