"""Fitting a re-weighting of anchors, a one-token pass at a time (section 3.1, appendix H)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.engines.context import Context
from mechicl.engines.last_token import LastToken, last_tokens
from mechicl.errors import InputError, NumericalError
from mechicl.models import frozen, hooked, provenance
from mechicl.patches.reweight import Placement, ReweightAnchors
from mechicl.progress import progress
from mechicl.prompts import Prompt, PromptSet

Shared = Literal["layers", "heads"]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted patch, and how it came about."""

    patch: ReweightAnchors
    losses: Float[Tensor, "step"]
    """Cross-entropy over the label words, in nats, of each step's prompt before the step."""
    order: tuple[tuple[int, ...], ...]
    """Prompts by index, one step each, epoch by epoch."""


def fit_reweighting(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    *,
    lr: float = 0.01,
    epochs: int = 10,
    seed: int = 42,
    shared: Sequence[Shared] = (),
    placement: Placement = "postsoftmax",
    order: Sequence[Sequence[int]] | None = None,
    keep: Callable[[Context, Prompt], Context] | None = None,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Fit:
    """Learn beta by Adam on prompts whose label is known, one prompt a step, through the frozen model.

    Args:
        model: a HookedTransformer that can be run block by block.
        prompts: training prompts, as `task.auxiliary_prompts(...)` makes them.
        lr: learning rate (the paper's table; its code's default is 0.1).
        epochs: rounds through the prompts, each in an order of its own.
        seed: seed of the orders, which are the authors' for the same seed.
        shared: axes over which one beta is shared: layers, heads.
        placement: after the softmax without renormalising (the paper), or before it.
        order: the prompts' order in each epoch, instead of the seed's.
        keep: what is left of each prompt's demonstrations, to learn on a compressed context.
        observe: called with beta and its gradient at every step, before the step.

    Raises:
        InputError: a prompt without a known label, or an architecture that cannot be run block by block.
        NumericalError: the loss becomes NaN or infinite.
    """
    prompts = prompts if isinstance(prompts, PromptSet) else PromptSet.of(prompts)
    if not len(prompts) or int(prompts.gold.min()) < 0:
        raise InputError("Re-weighting learns from prompts with known labels; give some, all with a gold class.")
    order = authors_orders(len(prompts), epochs, seed) if order is None else order
    sizes = hooked(model).sizes
    layers, heads = (1 if axis in shared else n for axis, n in (("layers", sizes.n_layers), ("heads", sizes.n_heads)))
    beta = torch.zeros(layers, heads, len(prompts.label_ids), device=hooked(model).device, requires_grad=True)
    about = {
        "model": hooked(model).name, "weight_digest": provenance(model)["weight_digest"],
        "task": prompts.task, "label_words": list(prompts.label_words),
        "class_names": list(prompts.class_names), "lr": lr, "epochs": len(order), "seed": seed,
        "prompts": prompts.digest(),
    }  # fmt: skip
    patch = ReweightAnchors(beta, placement)
    losses = _descend(model, last_tokens(model, prompts, keep), patch, lr, order, observe)
    return Fit(ReweightAnchors(beta.detach().cpu(), placement, about), losses, tuple(map(tuple, order)))


def _descend(
    model: Any,
    prepared: Sequence[LastToken],
    patch: ReweightAnchors,
    lr: float,
    order: Sequence[Sequence[int]],
    observe: Callable[[Tensor, Tensor], None] | None,
) -> Float[Tensor, "step"]:
    optimiser = torch.optim.Adam([patch.beta], lr=lr)
    steps = [index for epoch in order for index in epoch]
    losses = []
    with frozen(model), progress("re-weighting", len(steps)) as advance:
        for index in steps:
            with torch.enable_grad():
                logits = prepared[index].label_logits(model, [patch])
                loss = torch.nn.functional.cross_entropy(logits, prepared[index].batch.gold)
            if not loss.isfinite():
                raise NumericalError(f"Re-weighting: the loss is {loss.item()}; try a lower lr, or dtype='float32'.")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if observe is not None and patch.beta.grad is not None:
                observe(patch.beta.detach().clone(), patch.beta.grad.clone())
            optimiser.step()
            losses.append(loss.detach().cpu())
            advance(1)
    return torch.stack(losses)


def authors_orders(n: int, epochs: int, seed: int) -> list[list[int]]:
    """The orders of the authors' code: every epoch shuffles the last one's order again.

    Hugging Face's `dataset.shuffle()` without a seed draws one from numpy's global state, which their `set_seed(seed)`
    has set; here the same from a private generator.
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
