"""The paper's way of computing, in plain code of our own: every prompt alone and whole, through TransformerLens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mechicl.engines.reweighting import authors_orders
from mechicl.models import frozen as hold_still
from mechicl.patches.isolate import Isolate
from mechicl.prompts import Prompt, PromptSet

Hooks = list[tuple[str, Any]]


def _pass(model: Any, prompt: Prompt, hooks: Hooks) -> Tensor:
    """A whole forward pass; the label words' logits at q."""
    tokens = torch.tensor([prompt.tokens], device=model.cfg.device)
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks, prepend_bos=False)
    return logits[0, -1, list(prompt.label_ids)]


@torch.no_grad()
def label_logits(model: Any, prompts: Sequence[Prompt], beta: Tensor | None = None) -> Tensor:
    """[prompt class], with attention to the label words scaled by exp(beta) where it is given."""
    return torch.stack([_pass(model, p, [] if beta is None else _scale(model, p, beta)) for p in prompts])


def _scale(model: Any, prompt: Prompt, beta: Tensor) -> Hooks:
    at = list(prompt.anchors)
    beta = beta.to(model.cfg.device)

    def hook(layer: int) -> Any:
        def scale(pattern: Tensor, hook: Any) -> Tensor:
            factor = torch.ones_like(pattern[:, :, -1])
            factor[:, :, at] = beta[layer][:, list(prompt.anchor_classes)].exp().to(factor)
            return torch.cat([pattern[:, :, :-1], (pattern[:, :, -1] * factor)[:, :, None]], 2)

        return scale

    return [(f"blocks.{layer}.attn.hook_pattern", hook(layer)) for layer in range(model.cfg.n_layers)]


def orders(n: int, epochs: int) -> list[list[int]]:
    """The authors' shuffles."""
    return authors_orders(n, epochs, 42)


def fit(model: Any, prompts: PromptSet, order: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Beta and the loss of each step: a backward pass through the whole prompt, with gradients of all weights."""
    shape, device = (model.cfg.n_layers, model.cfg.n_heads, len(prompts.label_ids)), model.cfg.device
    beta = torch.zeros(shape, device=device, requires_grad=True)
    optimiser, losses = torch.optim.Adam([beta], lr=0.01), []
    for index in (index for epoch in order for index in epoch):
        logits = _pass(model, prompts[index], _scale(model, prompts[index], beta))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(prompts[index].gold, device=device))
        optimiser.zero_grad()  # as theirs: the weights' gradients are not cleared, and add up
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    model.zero_grad()
    return beta.detach().cpu(), torch.tensor(losses)


def flow(model: Any, prompts: Sequence[Prompt], *, frozen: bool) -> Tensor:
    """S_wp, S_pq and S_ww [prompt layer metric]; gradients of the weights too where they are not frozen."""
    if frozen:
        with hold_still(model):
            return torch.stack([_flow(model, prompt) for prompt in prompts])
    found = torch.stack([_flow(model, prompt) for prompt in prompts])
    model.zero_grad()
    return found


def _flow(model: Any, prompt: Prompt) -> Tensor:
    patterns: list[Tensor] = []

    def start(embedded: Tensor, hook: Any) -> Tensor:
        return embedded if embedded.requires_grad else embedded.requires_grad_()

    def see(pattern: Tensor, hook: Any) -> None:
        pattern.retain_grad()
        patterns.append(pattern)

    sites = [(f"blocks.{layer}.attn.hook_pattern", see) for layer in range(model.cfg.n_layers)]
    logits = _pass(model, prompt, [("hook_embed", start), *sites])
    torch.nn.functional.cross_entropy(logits, torch.tensor(prompt.gold, device=logits.device)).backward()
    return torch.stack([_shares((A * A.grad).sum(1)[0].abs().detach(), prompt) for A in patterns if A.grad is not None])


def _shares(saliency: Tensor, prompt: Prompt) -> Tensor:
    p, q, edges = list(prompt.anchors), prompt.target, saliency.tril(-1)
    wp, pq, everything = edges[p].sum(), edges[q, p].sum(), edges.sum()
    n_wp, n_pq = sum(p), len(p)
    return torch.stack([wp / n_wp, pq / n_pq, (everything - wp - pq) / ((q + 1) * q // 2 - n_wp - n_pq)])


@torch.no_grad()
def label_attention(model: Any, prompts: Sequence[Prompt]) -> Tensor:
    """A(q, p) [prompt layer head class]."""
    found = []
    for prompt in prompts:
        rows: list[Tensor] = []

        def see(pattern: Tensor, hook: Any, prompt: Prompt = prompt, rows: list[Tensor] = rows) -> None:
            row = torch.zeros(pattern.shape[1], len(prompt.label_ids), device=pattern.device)
            classes = torch.tensor(prompt.anchor_classes, device=pattern.device)
            row.index_add_(1, classes, pattern[0, :, -1, list(prompt.anchors)].float())
            rows.append(row)

        _pass(model, prompt, [(f"blocks.{layer}.attn.hook_pattern", see) for layer in range(model.cfg.n_layers)])
        found.append(torch.stack(rows))
    return torch.stack(found)


@torch.no_grad()
def isolated(model: Any, prompts: Sequence[Prompt], conditions: Sequence[Sequence[Isolate]]) -> Tensor:
    """Label logits [condition * prompt, class]: every prompt again for every condition, scores of chosen rows at -inf;
    a condition is any number of isolations.
    """
    found = []
    for patches in conditions:
        for prompt in prompts:
            cuts = [(layer, patch.rows(prompt, layer)) for patch in patches for layer in patch.layers]
            found.append(_pass(model, prompt, [_cut(layer, rows) for layer, rows in cuts]))
    return torch.stack(found)


@torch.no_grad()
def target_queries(model: Any, prompts: Sequence[Prompt]) -> Tensor:
    """The query vector at q in every layer, then the label words' logits, [prompt number]."""
    found, rotary = [], model.cfg.positional_embedding_type == "rotary"
    for prompt in prompts:
        seen: list[Tensor] = []

        def see(queries: Tensor, hook: Any, seen: list[Tensor] = seen) -> None:
            seen.append(queries[0, -1].flatten())

        sites = [f"blocks.{layer}.attn.{'hook_rot_q' if rotary else 'hook_q'}" for layer in range(model.cfg.n_layers)]
        logits = _pass(model, prompt, [(site, see) for site in sites])
        found.append(torch.cat([*seen, logits]))
    return torch.stack(found)


def _cut(layer: int, rows: Sequence[int]) -> tuple[str, Any]:
    def cut(scores: Tensor, hook: Any) -> Tensor:
        scores = scores.clone()
        for row in rows:
            scores[:, :, row, :row] = -torch.inf
        return scores

    return f"blocks.{layer}.attn.hook_attn_scores", cut


@torch.no_grad()
def on_kept(model: Any, prompts: Sequence[Prompt], kept: Sequence[int]) -> Tensor:
    """Label logits of whole prompts whose queries see only the kept tokens of the demonstrations."""
    found = []
    for prompt in prompts:
        n = prompt.query_start
        hidden = [position for position in range(n) if position not in kept]

        def hide(scores: Tensor, hook: Any, n: int = n, hidden: list[int] = hidden) -> Tensor:
            scores = scores.clone()
            scores[:, :, n:, hidden] = -torch.inf
            return scores

        hooks = [(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(model.cfg.n_layers)]
        found.append(_pass(model, prompt, hooks))
    return torch.stack(found)
