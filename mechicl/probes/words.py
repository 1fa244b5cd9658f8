"""Attention inside words against attention between words, and the loss after words of several tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechicl.corpora import TokenBatch, pieces_of_ended_words, pieces_so_far
from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch, watch_layers
from mechicl.models import Adapter, hooked
from mechicl.readings import by_name, mean_of


@dataclass(frozen=True)
class WordAttention(Probe):
    """Attention at one distance inside a word and across words: reading [sequence layer head].

    Queries are the last tokens of words. *Within* is attention `distance` tokens back if that token is in the same
    word; *across* is the same for single-token words, where that token is in another word (never position 0, nor
    punctuation).
    """

    distance: int = 1
    axes = ("sequence", "layer", "head")
    units = {"within": "share of attention", "across": "share of attention"}
    terms = {"within": "n_within", "across": "n_across"}

    def __post_init__(self) -> None:
        if self.distance < 1:
            raise InputError(f"distance is {self.distance}; give a number of tokens back, at least 1.")

    def watch(self, model: Any, batch: TokenBatch) -> Watch:
        if batch.words is None:
            raise InputError("WordAttention needs running text whose words are known.")
        cases = dict(zip(self.units, self.cases(batch.words), strict=True))

        def read(layer: int, pattern: Tensor) -> Tensor:
            back = torch.diagonal(pattern.float(), -self.distance, dim1=-2, dim2=-1)
            back = torch.nn.functional.pad(back, (self.distance, 0))[..., : pattern.shape[-1]]
            back = back.transpose(1, 2)  # [batch query head]
            return torch.stack([(back * case[:, :, None]).sum(1) for case in cases.values()], -1)

        def means(sums: Tensor) -> dict[str, Tensor]:
            counts = {f"n_{name}": case.sum(1).cpu() for name, case in cases.items()}
            return {
                name: mean_of(of_case, counts[f"n_{name}"]) for name, of_case in by_name(sums, [*cases]).items()
            } | counts

        return watch_layers(model, "attn.hook_pattern", reduce=read, collect=means)

    def cases(self, words: Int[Tensor, "batch pos"]) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Queries whose key is in the same word, and queries of single-token words whose key is in another."""
        pieces = pieces_of_ended_words(words)
        room = torch.arange(words.shape[1], device=words.device) > self.distance
        key = torch.nn.functional.pad(words, (self.distance, 0), value=-1)[:, : words.shape[1]]
        return (pieces > self.distance) & room, (pieces == 1) & room & (key >= 0)


def word_half(tokens: Int[Tensor, "batch pos"], words: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """At the last token of each word, 0 or 1: the same at all occurrences of a word (parity of its token ids)."""
    parity = torch.zeros_like(tokens)
    first = pieces_so_far(words) <= 1
    for position in range(tokens.shape[1]):
        before = parity[:, position - 1] if position else torch.zeros_like(tokens[:, 0])
        parity[:, position] = (torch.where(first[:, position], 0, before) + tokens[:, position]) % 2
    return parity


@dataclass(frozen=True)
class LossAt(Probe):
    """Next-token loss, mean over chosen positions of each sequence: reading [sequence].

    `choose` gives True at the positions whose prediction counts, from the batch's words [batch pos].
    """

    choose: Callable[[Tensor], Tensor]
    axes = ("sequence",)
    units = {"loss": "nats"}
    terms = {"loss": "tokens"}

    def watch(self, model: Any, batch: TokenBatch) -> Watch:
        net = hooked(model)
        if batch.words is None:
            raise InputError("LossAt needs running text whose words are known.")
        chosen = self.choose(batch.words) & followed(batch.lengths, batch.tokens.shape[1])
        return mean_loss_at(net, batch.tokens, chosen)


def mean_loss_at(net: Adapter, tokens: Int[Tensor, "batch pos"], chosen: Bool[Tensor, "batch pos"]) -> Watch:
    """Reads the next-token loss in nats, averaged over the chosen positions of each sequence, and their number."""
    sequence, position = chosen.nonzero(as_tuple=True)  # here, because inside the pass it would wait for a GPU
    sums: list[Tensor] = []

    def see(resid: Tensor, hook: Any) -> None:
        losses = resid.new_zeros(resid.shape[:2], dtype=torch.float32)
        for rows, columns in zip(torch.split(sequence, 256), torch.split(position, 256), strict=True):
            logits = net.lens(resid.detach()[rows, columns])
            loss = torch.nn.functional.cross_entropy(logits, tokens[rows, columns + 1], reduction="none")
            losses[rows, columns] = loss
        sums.append(losses.sum(1))

    def mean() -> dict[str, Tensor]:
        n = chosen.sum(1).cpu()
        return {"loss": mean_of(sums[-1], n), "tokens": n}

    return Watch([(f"blocks.{net.sizes.n_layers - 1}.hook_resid_post", see)], mean)


def followed(lengths: Int[Tensor, "batch"], n_pos: int) -> Bool[Tensor, "batch pos"]:
    """Positions with a next token."""
    return torch.arange(n_pos, device=lengths.device) < lengths[:, None] - 1
