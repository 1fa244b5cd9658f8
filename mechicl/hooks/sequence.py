"""The log-probability of whole label words, if these rather than their first tokens score the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks.parts import Pass, Patch
from mechicl.models import Adapter, equal_rows
from mechicl.prompts import PromptBatch


def check_sequence(label_tokens: Sequence[tuple[int, ...]], what: str) -> None:
    """Raise InputError if whole label words score the classes, which `what` does not support."""
    if label_tokens:
        raise InputError(
            f"{what} needs classes that one token scores, and these prompts score whole label words; build them with "
            "score='first', and label words that begin with different tokens."
        )


@torch.no_grad()
def sequence_log_probs(net: Adapter, batch: PromptBatch, patches: Sequence[Patch]) -> Float[Tensor, "batch class"]:
    """Log-probability of each class's label word after q, in nats: the sum over its tokens.

    Words that differ only in their last token share a pass, in which their common tokens follow q. Patches act on the
    prompt as they do without these tokens.

    Raises:
        InputError: a patch acts only at q, so its effect at the tokens of a word is undefined.
    """
    for patch in patches:
        if patch.scope == "target":
            check_sequence(batch.prompts[0].label_tokens, type(patch).__name__)
    words = batch.prompts[0].label_tokens
    scores = torch.empty(len(batch), len(words), device=batch.device)
    for following in dict.fromkeys(word[:-1] for word in words):
        log_p = _log_probs(net, batch, patches, following)
        for c, word in enumerate(words):
            if word[:-1] == following:
                steps = torch.arange(len(word), device=batch.device)
                scores[:, c] = log_p[:, steps, torch.tensor(word, device=batch.device)].sum(1)
    return scores


def _log_probs(
    net: Adapter, batch: PromptBatch, patches: Sequence[Patch], following: tuple[int, ...]
) -> Float[Tensor, "batch step d_vocab"]:
    """Log-probabilities at q and at each of the tokens that follow it."""
    n, device = len(following), batch.device
    steps = batch.target[:, None] + torch.arange(n + 1, device=device)
    tokens = torch.cat([batch.tokens, batch.tokens.new_zeros(len(batch), n)], 1)
    tokens = tokens.scatter(
        1, steps[:, 1:], torch.tensor(following, device=device, dtype=torch.long).expand(len(batch), n)
    )
    longer = replace(batch, tokens=tokens, lengths=batch.lengths + n)
    installed = Pass(net, patches, longer)
    with installed.reordered(), net.hooks(installed.edits), equal_rows(tokens):
        final = net.forward(tokens)
    installed.check()
    rows = torch.arange(len(batch), device=device)[:, None]
    return net.read(final[rows, steps]).float().log_softmax(-1)
