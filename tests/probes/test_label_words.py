"""Probability of the label words, and norms of the residual at label words and position 0, by hand."""

from __future__ import annotations

import torch

from mechicl.hooks import run
from mechicl.probes import LabelMass, LabelNorms
from tests import tiny
from tests.random_prompts import random_prompts


def test_by_hand() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    found = run(model, prompts, [mass := LabelMass(), norms := LabelNorms()])
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            logits, cache = model.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
        expected = logits[0, -1].softmax(-1)[list(prompt.label_ids)].sum()
        torch.testing.assert_close(found[mass].values[i], expected)
        resid = torch.stack([cache["resid_post", layer][0] for layer in range(model.cfg.n_layers)]).norm(dim=-1)
        of_labels = resid[:, list(prompt.anchors)].mean(1)
        torch.testing.assert_close(found[norms].quantities["label_norm"][i], of_labels)
        torch.testing.assert_close(found[norms].quantities["first_norm"][i], resid[:, 0])
