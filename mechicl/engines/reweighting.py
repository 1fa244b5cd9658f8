"""Fitting a re-weighting of anchors by one-token passes (section 3.1, appendix H)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.doors import door
from mechicl.engines.context import Context
from mechicl.engines.last_token import last_tokens
from mechicl.errors import InputError, NumericalError, check_seed
from mechicl.hooks import Hook, Patch, Scope
from mechicl.hooks.doors import prompts_of
from mechicl.models import Adapter, frozen, hooked
from mechicl.models.provenance import identity
from mechicl.patches.reweight import Placement, ReweightAnchors, reweighted
from mechicl.progress import progress
from mechicl.prompts import Prompt, PromptBatch, PromptSet

Shared = Literal["layers", "heads"]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted patch, and its training history."""

    patch: ReweightAnchors
    losses: Float[Tensor, "step"]
    """Cross-entropy over the label words, in nats, of each step's prompt before the step."""
    right: Bool[Tensor, "step"]
    """Whether each step's prompt was answered correctly before the step."""
    order: tuple[tuple[int, ...], ...]
    """Prompts by index, one step each, epoch by epoch."""

    def by_epoch(self) -> tuple[list[float], list[float]]:
        """Mean loss in nats and accuracy on the training prompts, in each epoch."""
        numbers = (one.double().reshape(len(self.order), -1).mean(1).tolist() for one in (self.losses, self.right))
        losses, right = numbers
        return losses, right


@dataclass(frozen=True, eq=False)
class Variant:
    """One re-weighting to fit: its prompts, and the form of beta."""

    prompts: PromptSet
    """Training prompts, from `task.auxiliary_prompts(...)`."""
    shared: tuple[Shared, ...] = ()
    """Axes over which one beta is shared."""
    placement: Placement = "postsoftmax"
    """After the softmax without renormalising (the paper), or before it."""
    keep: Callable[[Context, Prompt], Context] | None = None
    """The kept part of each prompt's demonstrations, to learn on a compressed context."""


@door
def fit_reweighting(
    model: Any, prompts: PromptSet | Sequence[Prompt], *, lr: float = 0.01, epochs: int = 10, seed: int = 42,
    shared: Sequence[Shared] = (), placement: Placement = "postsoftmax", order: Sequence[Sequence[int]] | None = None,
    keep: Callable[[Context, Prompt], Context] | None = None, observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Fit:  # fmt: skip
    """Fit beta with Adam on labelled prompts, one prompt per step, through the frozen model.

    Args:
        model: a HookedTransformer that can be run block by block.
        prompts: training prompts, from `task.auxiliary_prompts(...)`.
        lr: learning rate (the paper's table; its code's default is 0.1).
        epochs: passes over the prompts, each in a new order.
        seed: seed of the orders, which equal the authors' for the same seed.
        shared: axes over which one beta is shared: layers, heads.
        placement: after the softmax without renormalising (the paper), or before it.
        order: the prompts' order in each epoch, instead of the seed's.
        keep: the part of each prompt's demonstrations that is kept, to fit on a compressed context.
        observe: called with beta and its gradient at every step, before the step.

    Raises:
        InputError: a prompt has no known label, or the architecture cannot run block by block.
        NumericalError: the loss becomes NaN or infinite.
    """
    prompts = prompts_of(prompts)
    variant = Variant(prompts, tuple(shared), placement, keep)
    return fit_together(model, [variant], lr=lr, epochs=epochs, seed=seed, order=order, observe=observe)[0]


def fit_together(
    model: Any, variants: Sequence[Variant], *, lr: float = 0.01, epochs: int = 10, seed: int = 42,
    order: Sequence[Sequence[int]] | None = None, observe: Callable[[Tensor, Tensor], None] | None = None,
) -> list[Fit]:  # fmt: skip
    """Fit several re-weightings, each as if it were alone, in lockstep if they learn from the same tokens.

    A step reads all weights twice for a single token. Variants on the same keys are rows of one batch, for which the
    weights are read once. Adam updates each number separately, so variants do not affect one another. Arguments and
    errors are those of `fit_reweighting`.
    """
    check_seed(seed)
    for variant in variants:
        if not len(variant.prompts) or int(variant.prompts.gold.min()) < 0:
            raise InputError("Re-weighting learns from prompts with known labels; give some, all with a gold class.")
    fits: dict[int, Fit] = {}
    groups: dict[Hashable, list[int]] = {}
    for index, variant in enumerate(variants):
        groups.setdefault(_keys(variant), []).append(index)
    net = hooked(model)
    known = identity(net.raw)
    for indices in groups.values():
        group = [variants[index] for index in indices]
        orders = authors_orders(len(group[0].prompts), epochs, seed) if order is None else order
        betas = [_zeros(net, variant) for variant in group]
        losses, right = _descend(model, group, betas, lr, orders, observe)
        for index, variant, beta, loss, hit in zip(indices, group, betas, losses, right, strict=True):
            prompts = variant.prompts
            about = {
                "model": net.name, **known, "task": prompts.task,
                "label_words": list(prompts.label_words), "class_names": list(prompts.class_names),
                "prompts": prompts.digest(), "lr": lr, "epochs": len(orders), "seed": seed,
            }  # fmt: skip
            patch = ReweightAnchors(beta.detach().cpu(), variant.placement, about)
            fits[index] = Fit(patch, loss, hit, tuple(map(tuple, orders)))
    return [fits[index] for index in range(len(variants))]


def _keys(variant: Variant) -> Hashable:
    """A key that is equal if q attends to the same keys in every prompt, wherever the anchors are."""
    prompts = variant.prompts
    tokens = tuple((prompt.tokens, prompt.query_start) for prompt in prompts)
    anchors = tuple(prompt.demonstrations for prompt in prompts) if variant.keep else ()
    return tokens, tuple(prompts.gold.tolist()), prompts.label_ids, variant.keep, anchors


def _zeros(net: Adapter, variant: Variant) -> Float[Tensor, "layer head class"]:
    layers = 1 if "layers" in variant.shared else net.sizes.n_layers
    heads = 1 if "heads" in variant.shared else net.sizes.n_heads
    return torch.zeros(layers, heads, len(variant.prompts.label_ids), device=net.device, requires_grad=True)


@dataclass(frozen=True, eq=False)
class _Rows(Patch):
    """Re-weights each row of the batch by its own beta."""

    betas: Sequence[Float[Tensor, "#layer #head #class"]]
    placements: Sequence[Placement]

    @property
    def scope(self) -> Scope:
        return "target"

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        sizes = hooked(model).sizes
        shape = (sizes.n_layers, sizes.n_heads, len(batch.label_ids))
        zeros, rows = self.betas[0].new_zeros(shape), list(zip(self.betas, self.placements, strict=True))
        hooks: list[Hook] = []
        for placement in dict.fromkeys(self.placements):
            betas = torch.stack([beta.expand(shape) if of_row == placement else zeros for beta, of_row in rows])
            hooks += reweighted(betas, placement, batch)
        return hooks


def _descend(
    model: Any, group: Sequence[Variant], betas: Sequence[Tensor], lr: float, order: Sequence[Sequence[int]],
    observe: Callable[[Tensor, Tensor], None] | None,
) -> tuple[Float[Tensor, "variant step"], Bool[Tensor, "variant step"]]:  # fmt: skip
    first = group[0]
    prepared = [
        last.rows([variant.prompts[index] for variant in group])
        for index, last in enumerate(last_tokens(model, first.prompts, first.keep))
    ]
    patch = _Rows(betas, [variant.placement for variant in group])
    optimiser = torch.optim.Adam(betas, lr=lr)
    steps = [index for epoch in order for index in epoch]
    losses, right = [], []
    with frozen(model), progress("re-weighting", len(steps)) as advance:
        for index in steps:
            with torch.enable_grad():
                logits = prepared[index].label_logits(model, [patch])
                loss = torch.nn.functional.cross_entropy(logits, prepared[index].batch.gold, reduction="none")
            losses.append(loss.detach().cpu())
            right.append((logits.argmax(-1) == prepared[index].batch.gold).cpu())
            if not losses[-1].isfinite().all():
                values = losses[-1].tolist()
                raise NumericalError(f"Re-weighting: the loss is {values}; try a lower lr, or dtype='float32'.")
            optimiser.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            if observe is not None:
                for beta in betas:
                    assert beta.grad is not None
                    observe(beta.detach().clone(), beta.grad.clone())
            optimiser.step()
            advance(1)
    return torch.stack(losses, 1), torch.stack(right, 1)


def authors_orders(n: int, epochs: int, seed: int) -> list[list[int]]:
    """The orders of the authors' code: every epoch reshuffles the previous epoch's order.

    Hugging Face's `dataset.shuffle()` without a seed draws one from numpy's global state, which their `set_seed(seed)`
    has set; here a private generator draws the same.
    """
    state = np.random.RandomState(seed)
    order, orders = np.arange(n), []
    for _ in range(epochs):
        words, position = state.get_state(legacy=False)["state"].values()
        drawn = words[position] if position < 624 else words[0]
        state.random_sample()
        order = order[np.random.default_rng(drawn).permutation(n)]
        orders.append([int(index) for index in order])
    return orders
