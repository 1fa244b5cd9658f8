"""Attention of a word's last token to its earlier tokens, against nearby single-token words: sub-joiner heads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.corpora import TokenBatch, pieces_of_ended_words
from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch, watch_layers
from mechicl.probes.words import word_half
from mechicl.readings import by_name, mean_of

SUB_JOINER_QUANTITIES = ("mass", "first_bias", "control", "auroc")


@dataclass(frozen=True)
class SubJoiner(Probe):
    """Attention from the last of a word's `pieces` tokens to the others, by head: reading [sequence layer head half].

    Means over the words of exactly `pieces` tokens, in each of two halves of the vocabulary's words (`word_half`):

    - `mass`: attention of the last token to the word's earlier ones.
    - `first_bias`: attention to the first token, minus the mean attention to the word's others, including the last.
    - `control`: attention of a single-token word to the same number of tokens before it, averaged over those of the
      same half and sequence that end at most `near` tokens away, so that text and position are matched.
    - `auroc`: share of these single-token words whose attention is smaller than the word's (ties count half).

    Words without a single-token word nearby are left out.
    """

    pieces: int = 2
    near: int = 32
    axes = ("sequence", "layer", "head", "half")
    units = dict.fromkeys(SUB_JOINER_QUANTITIES, "share of attention") | {"auroc": "share of pairs"}
    terms = dict.fromkeys(SUB_JOINER_QUANTITIES, "words")

    def __post_init__(self) -> None:
        if self.pieces < 2 or self.near < 1:
            raise InputError(
                f"SubJoiner needs words of 2 tokens or more and a distance of at least 1; got pieces {self.pieces}, "
                f"near {self.near}."
            )

    def watch(self, model: Any, batch: TokenBatch) -> Watch:
        if batch.words is None:
            raise InputError("SubJoiner needs running text whose words are known.")
        cases = self.cases(batch.tokens.cpu(), batch.words.cpu()).to(batch.device)
        n = torch.bincount((2 * cases.words[0] + cases.half).cpu(), minlength=2 * len(batch.tokens)).view(-1, 1, 1, 2)

        def means(sums: Tensor) -> dict[str, Tensor]:
            return by_name(mean_of(sums, n[..., None]), SUB_JOINER_QUANTITIES) | {"words": n}

        return watch_layers(
            model, "attn.hook_pattern", reduce=lambda _, pattern: self._sums(pattern.float(), cases), collect=means
        )

    def cases(self, tokens: Int[Tensor, "batch pos"], words: Int[Tensor, "batch pos"]) -> _Cases:
        """Last tokens of the words, the single-token words, and which of them are compared; never with position 0."""
        ended = pieces_of_ended_words(words)
        room = torch.arange(words.shape[1], device=words.device) >= self.pieces
        half = word_half(tokens, words)
        multi, single = ((ended == n) & room for n in (self.pieces, 1))
        compared = []
        for row in range(len(words)):
            m, s = multi[row].nonzero(), single[row].nonzero()[:, 0]
            alike = ((m - s).abs() <= self.near) & (half[row][m] == half[row][s])
            i, j = alike.nonzero(as_tuple=True)
            compared.append(torch.stack([torch.full_like(i, row), m[i, 0], s[j]]))
        row, word, other = torch.cat(compared, 1)
        place, of_word = torch.unique(torch.stack([row, word]), dim=1, return_inverse=True)
        pairs = torch.bincount(of_word, minlength=place.shape[1])
        return _Cases(place, half[place[0], place[1]], torch.stack([row, other]), of_word, pairs)

    def _sums(
        self, pattern: Float[Tensor, "batch head query key"], cases: _Cases
    ) -> Float[Tensor, "batch head half quantity"]:
        back = torch.arange(self.pieces, device=pattern.device)
        own = _looking_back(pattern, cases.words, back)
        mass = own[..., 1:].sum(-1)
        other = _looking_back(pattern, cases.others, back[1:]).sum(-1)  # [pair head]
        mine = mass[cases.of_word]
        wins = (mine > other).float() + 0.5 * (mine == other).float()
        control, auroc = (_sum_by(cases.of_word, values, len(mass)) / cases.pairs[:, None] for values in (other, wins))
        bias = own[..., -1] - own[..., :-1].mean(-1)
        values = torch.stack([mass, bias, control, auroc], -1)  # [word head quantity]
        sums = _sum_by(2 * cases.words[0] + cases.half, values, 2 * len(pattern))
        return sums.view(len(pattern), 2, *values.shape[1:]).transpose(1, 2)


@dataclass(frozen=True)
class _Cases:
    words: Int[Tensor, "2 word"]
    """Sequence and position of each word's last token."""
    half: Int[Tensor, " word"]
    others: Int[Tensor, "2 pair"]
    """Sequence and position of the single-token words; one pair per word that each is compared with."""
    of_word: Int[Tensor, " pair"]
    pairs: Int[Tensor, " word"]
    """Number of single-token words that each word is compared with."""

    def to(self, device: torch.device) -> _Cases:
        return _Cases(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def _looking_back(
    pattern: Float[Tensor, "batch head query key"], places: Int[Tensor, "2 case"], back: Int[Tensor, " distance"]
) -> Float[Tensor, "case head distance"]:
    row, position = places[0][:, None], places[1][:, None]
    found: Tensor = pattern[row, :, position, position - back]  # [case distance head]
    return found.transpose(1, 2)


def _sum_by(group: Int[Tensor, " case"], values: Float[Tensor, "case *any"], n: int) -> Float[Tensor, "group *any"]:
    """Sums of the values of each of n groups; on CUDA in a fixed order, which `index_add_` does not guarantee."""
    return values.new_zeros(n, *values.shape[1:]).index_put_((group,), values, accumulate=True)
