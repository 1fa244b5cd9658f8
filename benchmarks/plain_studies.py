"""Two studies of *Label Words are Anchors* as plain code on a Hugging Face model: every prompt alone and whole.

What `benchmarks/real.py` measures ours against. The weights are frozen, which the authors' code does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface

from mechicl.engines.reweighting import authors_orders
from mechicl.prompts import Prompt, PromptSet


def _reweighted(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, factors: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention whose last row is multiplied by factors [layer head key]."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    later = torch.ones(query.shape[2], key.shape[2]).triu(1).bool()
    pattern = (query @ key.transpose(2, 3) * scaling).masked_fill(later, -torch.inf).softmax(-1)
    last = pattern[:, :, -1:] * factors[module.layer_idx, None, :, None]
    return (torch.cat([pattern[:, :, :-1], last], 2) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("reweighted", _reweighted)


def label_logits(hf: Any, prompts: Sequence[Prompt], beta: Tensor | None = None) -> Tensor:
    """[prompt class], with attention to the label words multiplied by exp(beta) where it is given."""
    hf.set_attn_implementation("sdpa" if beta is None else "reweighted")
    found = []
    for prompt in prompts:
        more = {}
        if beta is not None:
            added = torch.zeros(*beta.shape[:2], len(prompt))
            added[:, :, list(prompt.anchors)] = beta[:, :, list(prompt.anchor_classes)]
            more["factors"] = added.exp()
        found.append(_at_target(hf, prompt, **more))
    return torch.stack(found)


def fit(hf: Any, prompts: PromptSet, epochs: int) -> Tensor:
    """Beta after a step of Adam on each prompt of each epoch, in the authors' order."""
    beta = torch.zeros(
        hf.config.num_hidden_layers, hf.config.num_attention_heads, len(prompts.label_ids), requires_grad=True
    )
    optimiser = torch.optim.Adam([beta], lr=0.01)
    for index in (index for epoch in authors_orders(len(prompts), epochs, 42) for index in epoch):
        optimiser.zero_grad()
        cross_entropy(label_logits(hf, [prompts[index]], beta), prompts.gold[[index]]).backward()
        optimiser.step()
    return beta.detach()


@torch.no_grad()
def on_kept(hf: Any, prompts: Sequence[Prompt], kept: Sequence[int]) -> Tensor:
    """Label logits of prompts whose queries see only the kept tokens of the demonstrations."""
    hf.set_attn_implementation("sdpa")
    found = []
    for prompt in prompts:
        seen = torch.ones(len(prompt), len(prompt)).tril().bool()
        hidden = sorted(set(range(prompt.query_start)) - set(kept))
        seen[prompt.query_start :, hidden] = False
        found.append(_at_target(hf, prompt, attention_mask=seen[None, None]))
    return torch.stack(found)


def _at_target(hf: Any, prompt: Prompt, **more: Any) -> Tensor:
    tokens = torch.tensor([prompt.tokens])
    return hf(tokens, use_cache=False, logits_to_keep=1, **more).logits[0, -1, list(prompt.label_ids)]
