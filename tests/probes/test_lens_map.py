"""The lens map is the logit lens read at chosen positions, and ends with the model's own prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mechicl import metrics
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.probes import LastResidual, LensMap, LensTokens
from tests import tiny
from tests.random_prompts import random_prompts

PLACES = (1, 4, 8)


@pytest.mark.parametrize("family", tiny.families)
def test_each_cell_is_the_residual_under_the_final_norm(family: str) -> None:
    model, prompts = tiny.model(family), random_prompts(2)
    reading = run(model, prompts, [probe := LensMap(PLACES)], progress=None)[probe]
    for row, prompt in enumerate(prompts):
        tokens = torch.tensor([prompt.tokens])
        final = model(tokens, prepend_bos=False)[0, PLACES]
        _, cache = model.run_with_cache(tokens, prepend_bos=False)
        n_layers = hooked(model).sizes.n_layers
        names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n_layers)), f"blocks.{n_layers - 1}.hook_resid_post"]
        for point, name in enumerate(names):
            logits = hooked(model).lens(cache[name][0, PLACES])
            answer = logits.softmax(-1).gather(-1, final.argmax(-1, keepdim=True))[:, 0]
            assert reading["token"][row, point].tolist() == logits.argmax(-1).tolist()
            torch.testing.assert_close(reading["probability"][row, point], answer, atol=1e-6, rtol=1e-4)
            kl = metrics.kl_divergence(final, logits).float()
            torch.testing.assert_close(reading["kl"][row, point], kl, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("probe", [LensMap((50,)), LensMap((-1,)), LensTokens((50,)), LastResidual((0, 99))])
def test_what_no_prompt_has_is_refused(probe: Any) -> None:
    with pytest.raises(InputError, match=r"has (position|point) (50|-1|99)"):
        run(tiny.model("gpt2"), random_prompts(3), [probe], progress=None)


def test_the_last_point_is_the_models_prediction() -> None:
    model, prompts = tiny.model("llama"), random_prompts(1)
    reading = run(model, prompts, [probe := LensMap(PLACES)], progress=None)[probe]
    final = model(torch.tensor([prompts[0].tokens]), prepend_bos=False)[0, PLACES]
    assert reading["token"][0, -1].tolist() == final.argmax(-1).tolist()
    assert reading["kl"][0, -1].max() < 5e-6
    torch.testing.assert_close(reading["probability"][0, -1], final.softmax(-1).amax(-1), atol=1e-6, rtol=1e-4)
