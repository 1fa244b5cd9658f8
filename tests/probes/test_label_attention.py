"""Attention to label words, against the full pattern."""

from __future__ import annotations

import pytest
import torch

from mechicl.hooks import run
from mechicl.probes import LabelAttention
from tests import tiny
from tests.random_prompts import random_prompts


@pytest.mark.parametrize("family", tiny.families)
def test_it_is_the_sum_over_a_classs_anchors(family: str) -> None:
    model = tiny.model(family)
    prompts = random_prompts(3, shots=2, n_classes=3)
    probe = LabelAttention()
    reading = run(model, prompts, [probe])[probe]
    for prompt, ours in zip(prompts, reading, strict=True):
        _, cache = model.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
        for layer in range(model.cfg.n_layers):
            row = cache["pattern", layer][0, :, prompt.target]
            for label_class in range(3):
                anchors = [a for a, c in zip(prompt.anchors, prompt.anchor_classes, strict=True) if c == label_class]
                torch.testing.assert_close(ours[layer, :, label_class], row[:, anchors].sum(-1), rtol=1e-5, atol=1e-6)
