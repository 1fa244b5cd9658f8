"""Attention to label words, against the full pattern."""

from __future__ import annotations

import pytest
import torch

from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.probes import LabelAttention
from tests import tiny
from tests.random_prompts import random_prompts


@pytest.mark.parametrize("family", tiny.families)
def test_it_is_the_sum_over_a_classs_anchors(family: str) -> None:
    model = tiny.model(family)
    prompts = random_prompts(3, shots=2, n_classes=3)
    probe = LabelAttention()
    attention = run(model, prompts, [probe])[probe].values
    for prompt, ours in zip(prompts, attention, strict=True):
        _, cache = model.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
        for layer in range(model.cfg.n_layers):
            row = cache["pattern", layer][0, :, prompt.target]
            for label_class in range(3):
                anchors = [a for a, c in zip(prompt.anchors, prompt.anchor_classes, strict=True) if c == label_class]
                torch.testing.assert_close(ours[layer, :, label_class], row[:, anchors].sum(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_norm_weighting_measures_what_each_weight_moves(family: str) -> None:
    model = tiny.model(family)
    prompts = random_prompts(3, shots=1, n_classes=2)
    probe = LabelAttention("norm")
    attention = run(model, prompts, [probe])[probe].values
    for prompt, ours in zip(prompts, attention, strict=True):
        _, cache = model.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
        for layer, block in enumerate(model.blocks):
            values = cache["v", layer][0]
            for anchor, label_class in zip(prompt.anchors, prompt.anchor_classes, strict=True):
                for head in range(model.cfg.n_heads):
                    group = head * values.shape[1] // model.cfg.n_heads
                    moved = cache["pattern", layer][0, head, prompt.target, anchor] * (
                        values[anchor, group] @ block.attn.W_O[head]
                    )
                    torch.testing.assert_close(ours[layer, head, label_class], moved.norm(), rtol=1e-4, atol=1e-5)


def test_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match="'attention' or 'norm'"):
        LabelAttention("value")  # type: ignore[arg-type]
