"""Prompts of which only the last token is run, repeatedly, with gradients of what acts at q.

A patch that changes only row q (re-weighting) leaves all earlier tokens unchanged. Their keys and values are cached,
and a training step is a forward and a backward pass over one token, through frozen weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.engines.context import Context, forward_on, read_context
from mechicl.engines.prefix import shared_demonstrations
from mechicl.errors import InputError
from mechicl.hooks import Hook, Pass, Patch
from mechicl.hooks.doors import prompts_of
from mechicl.metrics.objective import Objective
from mechicl.models import Blockwise, KeyValues, blockwise, frozen
from mechicl.prompts import Prompt, PromptBatch, PromptSet


@dataclass(frozen=True, eq=False)
class LastToken:
    """One prompt whose tokens before q have been read."""

    batch: PromptBatch
    """The token q alone: `target` is 0, `anchors` are places among the keys."""
    past: tuple[KeyValues, ...]
    position: int
    """The position of q."""
    places: tuple[int, ...]
    """Positions of those tokens of the demonstrations that are among the keys."""

    def rows(self, prompts: Sequence[Prompt]) -> LastToken:
        """q once per prompt, as rows of one pass; the prompts equal this one except for their anchors' positions."""

        one, n, device = self.batch, len(prompts), self.batch.device
        key = {place: index for index, place in enumerate(self.places)}
        labels = [zip(prompt.anchors, prompt.anchor_classes, strict=True) for prompt in prompts]
        kept = torch.tensor([[(key[p], c) for p, c in row if p in key] for row in labels], device=device)
        batch = replace(
            one, tokens=one.tokens.expand(n, -1), lengths=one.lengths.expand(n), target=one.target.expand(n),
            gold=one.gold.expand(n), anchors=kept[..., 0], anchor_classes=kept[..., 1], prompts=tuple(prompts),
        )  # fmt: skip
        return replace(self, batch=batch)

    def label_logits(self, model: Any, patches: Sequence[Patch] = ()) -> Float[Tensor, "row class"]:
        """Logits of the label words at q, differentiable with respect to what the patches hold.

        Raises:
            InputError: a patch does not act at the target alone.
        """
        net = blockwise(model, "LastToken")
        for patch in patches:
            if patch.scope != "target":
                raise InputError(f"{type(patch).__name__} acts before the target position; use run.")
        installed = Pass(net, patches, self.batch)
        with net.hooks(installed.edits):
            final, _ = forward_on(net, self.batch.tokens, self.position, self.past)
        installed.check()
        return net.lens(final[:, 0], self.batch.label_ids)

    def saliency(
        self, model: Any, loss: Objective
    ) -> tuple[Float[Tensor, "layer head key"], Float[Tensor, "row class"]]:
        """Signed A * dL/dA of the edges to q in every layer, and the logits of the label words.

        No later token sees q, so this equals its row of a full pass's saliency. Keys are in the order of the kept
        tokens, then those of the query.
        """
        net, edges = blockwise(model, "LastToken"), dict[int, Tensor]()

        def see(layer: int) -> Callable[..., None]:
            def watch(pattern: Tensor, hook: Any) -> None:
                value = pattern.detach()[0, :, 0].float()
                edges[layer] = torch.zeros_like(value)  # a layer on which the loss does not depend gets no gradient

                def take(gradient: Tensor) -> None:
                    edges[layer] = value * gradient[0, :, 0].float()

                pattern.register_hook(take)  # type: ignore[no-untyped-call]

            return watch

        layers = range(net.sizes.n_layers)
        hooks: list[Hook] = [("hook_embed", lambda embedding, hook: embedding.detach().requires_grad_())]
        hooks += [(f"blocks.{layer}.attn.hook_pattern", see(layer)) for layer in layers]
        with torch.inference_mode(False), torch.enable_grad(), frozen(net), net.hooks(hooks):
            final, _ = forward_on(net, self.batch.tokens, self.position, self.past)
            logits = net.read(final)[:, 0].float()[:, self.batch.label_ids]
            torch.autograd.backward(loss(logits, self.batch.gold).sum())
        return torch.stack([edges[layer] for layer in layers]), logits.detach()


def last_tokens(
    model: Any, prompts: PromptSet | Sequence[Prompt], keep: Callable[[Context, Prompt], Context] | None = None
) -> list[LastToken]:
    """Read all prompts up to their last token; shared demonstrations are read once.

    Every prompt keeps its keys and values: 2 * layers * tokens * key/value heads * d_head numbers. `keep` gives the
    kept part of the demonstrations if they are compressed.

    Raises:
        InputError: a prompt has no demonstrations or only one token, or the architecture cannot run block by block.
    """
    prompts = prompts_of(prompts)
    net, prepared = blockwise(model, "last_tokens"), dict[int, LastToken]()
    for indices in shared_demonstrations(prompts):
        first = prompts[indices[0]]
        context = read_context(model, first)
        context = context if keep is None else keep(context, first)
        prepared |= {index: up_to_target(net, prompts.select([index]), context) for index in indices}
    return [prepared[index] for index in range(len(prompts))]


def up_to_target(net: Blockwise, one: PromptSet, context: Context) -> LastToken:
    """Read the query of a set's only prompt up to its last token, on demonstrations that have been read."""
    batch, past, position = context.queries(one, net.device), context.layers, context.next_position
    before = batch.tokens.shape[1] - 1
    if before:
        with torch.no_grad(), frozen(net):
            _, new = forward_on(net, batch.tokens[:, :-1], position, past)
        past = tuple(old.then(more) for old, more in zip(past, new, strict=True))
    first = torch.zeros_like(batch.target)
    last = replace(batch, tokens=batch.tokens[:, -1:], lengths=first + 1, target=first)
    return LastToken(last, past, position + before, context.places)
