"""Saliency of attention edges, and how much of it flows into label words and out of them (section 2.1, Eq. 1-4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Hook, Probe, Watch, resolved_layers
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.prompts import PromptBatch
from mechicl.readings import by_name

HeadReduce = Literal["abs_of_sum", "sum_of_abs"]
FLOWS = ("S_wp", "S_pq", "S_ww")


def edge_saliency(
    pattern: Float[Tensor, "batch head query key"],
    gradient: Float[Tensor, "batch head query key"],
    head_reduce: HeadReduce | None = "abs_of_sum",
) -> Float[Tensor, "batch *head query key"]:
    """I = |sum over heads of A * dL/dA| (Eq. 1), or the sum of absolute values (footnote 3); None: each head's own.

    A first-order estimate of how much the loss changes if the edge from key to query is deleted; in nats if L is a
    cross-entropy; float32.
    """
    edges = pattern.float() * gradient.float()
    if head_reduce is None:
        return edges.abs()
    return edges.sum(1).abs() if head_reduce == "abs_of_sum" else edges.abs().sum(1)


def flow(
    saliency: Float[Tensor, "batch query key"], anchors: Int[Tensor, "batch anchor"], target: Int[Tensor, "batch"],
    *, text_only: bool = False,
) -> Float[Tensor, "batch metric"]:  # fmt: skip
    """S_wp, S_pq and S_ww of each prompt: mean saliency per edge of three sets of edges (Eq. 2-4).

    S_wp: from every earlier token into the label words p; S_pq: from the label words into the target position q; S_ww:
    all other edges among the tokens up to q. Edges from a token to itself belong to none. Rows after q are expected to
    be zero (the loss at q cannot depend on them). With `text_only`, S_wp leaves out edges from position 0, the usual
    attention sink, and from other label words; these then belong to no set.
    """
    batch = torch.arange(len(target), device=saliency.device)
    below = saliency.tril(-1)
    into = below.sum(-1)
    wp = into.gather(1, anchors).sum(-1)
    pq = below[batch[:, None], target[:, None], anchors].sum(-1)
    n_wp, n_pq, n_ww = edge_counts(anchors, target)
    ww = into.sum(-1) - wp - pq
    if text_only:
        left_out = torch.zeros_like(into, dtype=torch.bool).scatter(1, anchors, True)
        left_out[:, 0] = True
        before = left_out.cumsum(1) - left_out.long()  # number of them before each position
        kept = below.masked_fill(left_out[:, None], 0)
        wp = kept.sum(-1).gather(1, anchors).sum(-1)
        n_wp = (n_wp - before.gather(1, anchors).sum(-1)).clamp(min=1)
    return torch.stack([wp / n_wp, pq / n_pq, ww / n_ww], -1)


def check_anchors(batch: PromptBatch, name: str) -> None:
    """Reject prompts without label words."""
    if not batch.anchors.shape[1]:
        raise InputError(f"{name} reads label words, and these prompts have none; use shots=1 or more.")


def edge_counts(
    anchors: Int[Tensor, "batch anchor"], target: Int[Tensor, "batch"]
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """|C_wp|, |C_pq| and |C_ww|; together they are the N(N+1)/2 edges below the diagonal, with q at position N."""
    n_wp = anchors.sum(-1)
    n_pq = torch.full_like(n_wp, anchors.shape[1])
    return n_wp, n_pq, (target + 1) * target // 2 - n_wp - n_pq


@dataclass(frozen=True)
class SaliencyFlow(Probe):
    """S_wp, S_pq and S_ww in every layer: reading [prompt layer], reduced inside the backward pass."""

    head_reduce: HeadReduce = "abs_of_sum"
    loss: Objective = field(default=Objective())
    text_only: bool = False
    """S_wp without the edges from position 0 and from other label words."""
    axes = ("prompt", "layer")
    units = dict.fromkeys(FLOWS, "loss per edge")

    @property
    def objective(self) -> Objective:
        return self.loss

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        check_anchors(batch, "SaliencyFlow")
        layers = range(hooked(model).sizes.n_layers)
        nothing = torch.zeros(len(batch), 3, device=batch.device)
        hooks, result = saliency_hooks(
            layers,
            self.head_reduce,
            nothing,
            lambda edges: flow(edges, batch.anchors, batch.target, text_only=self.text_only),
        )
        return Watch(hooks, lambda: by_name(result(), FLOWS))


@dataclass(frozen=True)
class SaliencyMap(Probe):
    """The saliency of every edge in the chosen layers: reading [prompt layer query key].

    Meant for single prompts (the paper's Fig. 1): nothing is reduced, so memory grows with the square of the length.
    """

    layers: tuple[int, ...]
    head_reduce: HeadReduce = "abs_of_sum"
    loss: Objective = field(default=Objective())
    axes = ("prompt", "layer", "query", "key")
    units = {"saliency": "loss"}

    @property
    def objective(self) -> Objective:
        return self.loss

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        nothing = torch.zeros(*batch.tokens.shape, batch.tokens.shape[1], device=batch.device)
        layers = resolved_layers(self.layers, hooked(model).sizes.n_layers, "SaliencyMap")
        hooks, result = saliency_hooks(layers, self.head_reduce, nothing, lambda edges: edges)
        return Watch(hooks, result, coordinates={"layer": layers})


def saliency_hooks(
    layers: Sequence[int], head_reduce: HeadReduce | None, nothing: Tensor, reduce: Callable[[Tensor], Tensor]
) -> tuple[list[Hook], Callable[[], Float[Tensor, "batch layer *reduced"]]]:
    """Hooks that wait for each pattern's gradient and reduce its saliency; nothing else is kept.

    A layer on which the loss does not depend (a patch drops it) gets no gradient, and `nothing` is its reading.
    """
    reduced: dict[int, Tensor] = {}

    def hook_of(layer: int) -> Callable[..., None]:
        def see(pattern: Tensor, hook: Any) -> None:
            value = pattern.detach()

            def take(gradient: Tensor) -> None:
                reduced[layer] = reduce(edge_saliency(value, gradient, head_reduce))

            pattern.register_hook(take)  # type: ignore[no-untyped-call]

        return see

    hooks = [(f"blocks.{layer}.attn.hook_pattern", hook_of(layer)) for layer in layers]
    return hooks, lambda: torch.stack([reduced.get(layer, nothing) for layer in layers], 1)
