"""Exchange: label words gather what those of another prompt gather, and nothing else is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.patches import Exchange, IsolateLabels, exchange
from mechicl.prompts import PromptSet
from tests import tiny
from tests.random_prompts import random_prompts

LAYERS = (0, 1)


def seen(model: Any, prompt: Any, names: list[str], edits: Any = ()) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits at q, and the values at some hook points, of one prompt."""
    values: dict[str, torch.Tensor] = {}
    watch = [(name, lambda value, hook: values.__setitem__(hook.name, value[0])) for name in names]
    tokens = torch.tensor([prompt.tokens])
    with torch.no_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=[*edits, *watch], prepend_bos=False)
    return logits[0, -1, list(prompt.label_ids)], values


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_by_hand(family: str) -> None:
    """The donor's attention outputs at the label word of the same class, read and written by plain hooks."""
    model, (own, other) = tiny.model(family), random_prompts(2)
    names = [f"blocks.{layer}.hook_attn_out" for layer in LAYERS]
    _, written = seen(model, other, names)

    def write(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        donors = dict(zip(other.anchor_classes, other.anchors, strict=True))
        for place, class_ in zip(own.anchors, own.anchor_classes, strict=True):
            value[0, place] = written[hook.name][donors[class_]]
        return value

    expected, _ = seen(model, own, [], [(name, write) for name in names])
    patch = exchange(model, IsolateLabels(LAYERS), {own: other})
    found = run(model, PromptSet.of([own]), patches=[patch]).label_logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    plain, _ = seen(model, own, [])
    assert not torch.allclose(found, plain, atol=1e-5)


def test_with_the_prompt_itself_nothing_changes() -> None:
    model, prompts = tiny.model("llama"), random_prompts(5)
    patch = exchange(model, IsolateLabels(LAYERS), {prompt: prompt for prompt in prompts})
    plain, same = (run(model, prompts, patches=patches).label_logits for patches in ([], [patch]))
    torch.testing.assert_close(same, plain)


def test_every_prompt_needs_a_donor() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(2)
    patch = exchange(model, IsolateLabels(LAYERS), {prompts[0]: prompts[1]})
    with pytest.raises(InputError, match="for every prompt"):
        run(model, prompts, patches=[patch])
    assert isinstance(patch, Exchange)
    assert repr(patch).startswith("Exchange(IsolateLabels(layers=(0, 1)")
