"""Decode several residuals of the same tokens into predictions, tile by tile over the vocabulary, and compare them.

We multiply one tile at a time, use its logits while they are in the processor's cache, and keep a few sums per tile,
which we combine in float64. Whole rows of logits cost more, not because of the arithmetic, but because memory is
allocated for every step. Two measures need the whole softmax first; for these we keep a part's tiles, in memory that
the next part reuses, and process them a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from mechicl.metrics.predictions import jaccard, top_k_ids

Tiles = Callable[[Float[Tensor, "row d_model"], int], Iterable[tuple[int, Float[Tensor, "row tile"]]]]
"""Logits of rows in tiles of the vocabulary: each tile's first token id, and logits that may be overwritten.

A model's `lens_tiles` is one.
"""
_TILE = {"cpu": (384, 1024), "gpu": (1024, 2**16)}
"""Number of residuals and of vocabulary tokens multiplied at a time: enough to fill the machine; on a CPU few enough
for the logits to fit in its cache.
"""
_KEPT_BYTES = 2**27
"""Bytes of logits kept for a second pass, unless one token's streams alone take more."""
_LOWEST, _EXCLUDED = -1e37, 1e9
"""A finite logit for -inf, whose product with its probability, 0, would be NaN; and the nats that only it gives."""
_SECOND_LOOK = frozenset({"js_divergence", "reciprocal_rank", "clamped_entropy"})
_LEAST_PROBABILITY = 1e-9
"""The floor to which the authors of *Stages of Inference* raise every probability before computing entropies."""


@torch.no_grad()
def read_out(
    tiles: Tiles,
    streams: Sequence[Float[Tensor, "token d_model"]],
    targets: Int[Tensor, " token"],
    only: Collection[str],
    top_k: int = 0,
    *,
    d_vocab: int,
) -> dict[str, Tensor]:
    """The measures named in `only`, each [token stream] on the CPU; every stream is compared with stream 0, the base.

    `entropy` is in bits; `clamped_entropy` is the authors', with every probability raised to at least 1e-9 (up to 3e-8
    bits per token of the vocabulary). `kl`, KL(base || stream), `kl_reverse`, KL(stream || base), the Jensen-Shannon
    divergence `js_divergence` and `loss`, -log p(target), are in nats. `top_token` is the id of the most probable token
    (the lowest among ties), `agreement` 1 if it equals the base's, `reciprocal_rank` 1 / rank of the base's.
    `top_k_overlap` is the Jaccard similarity with the base's `top_k` tokens, NaN if `top_k` is 0.
    """
    width = _TILE[_kind(streams[0].device)][1]
    kept, twice = _Kept(), not _SECOND_LOOK.isdisjoint(only)
    at_once = _tokens_at_once(len(streams), d_vocab, streams[0].device, twice=twice)
    measures: list[dict[str, Tensor]] = []
    for start in range(0, len(targets), at_once):
        part = slice(start, start + at_once)
        sums, best = _Sums("kl_reverse" in only), _Best(top_k if "top_k_overlap" in only else 0)
        target_logit = _At(targets[part])
        resid = torch.stack([stream[part] for stream in streams], 1)
        for number, (first, logits) in enumerate(tiles(resid.flatten(0, 1), width)):
            tile = logits.view(*resid.shape[:2], -1)
            target_logit.look(tile, first)
            peak = tile.clamp_(min=_LOWEST).amax(-1)
            best.look(tile, peak, first)
            if twice:
                kept.keep(number, first, tile)
            sums.add(tile, peak)
        values = sums.measures(target_logit.logit) | best.measures()
        if twice:
            values |= kept.measures(sums, best.token[:, 0], clamped="clamped_entropy" in only)
        measures.append({name: values[name].cpu() for name in only})
    return {name: torch.cat([one[name] for one in measures]) for name in only}


def kept_bytes(n_streams: int, d_vocab: int, device: torch.device) -> int:
    """Bytes of the tiles that are kept for a second pass."""
    return 4 * d_vocab * n_streams * _tokens_at_once(n_streams, d_vocab, device, twice=True)


def _tokens_at_once(n_streams: int, d_vocab: int, device: torch.device, *, twice: bool) -> int:
    rows = _TILE[_kind(device)][0]
    if twice:
        rows = min(rows, _KEPT_BYTES // (4 * d_vocab))
    return max(1, rows // n_streams)


def _kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "gpu"


class _At:
    """The logit of one token in each stream."""

    def __init__(self, token: Int[Tensor, " token"]) -> None:
        self.token = token[:, None, None]
        self.logit: Tensor = torch.tensor(torch.nan, device=token.device)

    def look(self, tile: Float[Tensor, "token stream tile"], first: int) -> None:
        column = self.token - first
        here = (column >= 0) & (column < tile.shape[-1])
        value = tile.gather(-1, column.clamp(0, tile.shape[-1] - 1).expand(*tile.shape[:2], 1))
        self.logit = torch.where(here, value, self.logit)


@dataclass
class _Sums:
    """Sums per tile and stream, where z are the logits, and p and q the base's and the stream's softmax in the tile."""

    reverse: bool
    peak: list[Tensor] = field(default_factory=list)
    mass: list[Tensor] = field(default_factory=list)
    """Sum of exp(z - peak)."""
    self_term: list[Tensor] = field(default_factory=list)
    """Sum of q (z - peak)."""
    cross: list[Tensor] = field(default_factory=list)
    """Sum of p (z - peak)."""
    back: list[Tensor] = field(default_factory=list)
    """Sum of q (z - peak) with the base's z and peak, if the reverse KL is requested."""
    spare: Tensor | None = None
    log_sum: Float64[Tensor, "token stream"] = field(init=False)
    nats: Float64[Tensor, "token stream"] = field(init=False)
    """Entropies."""

    def add(self, tile: Float[Tensor, "token stream tile"], peak: Tensor) -> None:
        """Add a tile; its logits are overwritten."""
        below = tile.sub_(peak[..., None])
        share = below.softmax(-1)
        self.spare = spare = _like(tile, self.spare)
        self.peak.append(peak)
        self.mass.append(1 / share.amax(-1))  # the largest share is exp(0) / mass
        self.cross.append(torch.mul(share[:, :1], below, out=spare).sum(-1))
        self.self_term.append(torch.mul(share, below, out=spare).sum(-1))
        if self.reverse:
            self.back.append(torch.mul(share, below[:, :1], out=spare).sum(-1))

    def measures(self, target_logit: Float[Tensor, "token stream 1"]) -> dict[str, Tensor]:
        of_tiles = (self.peak, self.mass, self.self_term, self.cross)
        peak, mass, self_term, cross = (_wide(torch.stack(part, -1)) for part in of_tiles)
        log_mass = peak + mass.log()
        self.log_sum = log_sum = log_mass.logsumexp(-1)
        weight = (log_mass - log_sum[..., None]).exp()  # weight of each tile in the whole softmax
        # Tile by tile, to subtract nearly equal predictions before summing.
        apart = (weight[:, :1] * ((self_term + peak)[:, :1] - (cross + peak))).sum(-1)
        self.nats = (weight * (log_sum[..., None] - peak - self_term)).sum(-1).clamp(min=0)
        values = {
            "kl": _divergence(apart - log_sum[:, :1] + log_sum),
            "entropy": self.nats / math.log(2),
            "loss": log_sum - _wide(target_logit[..., 0]),
        }
        if self.reverse:
            back = _wide(torch.stack(self.back, -1))
            apart = (weight * ((self_term + peak) - (back + peak[:, :1]))).sum(-1)
            values["kl_reverse"] = _divergence(apart - log_sum + log_sum[:, :1])
        return {name: value.float() for name, value in values.items()}


class _Best:
    """The most probable token of each stream so far, and the k most probable ones."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.peak: Tensor
        self.token: Tensor
        self.values: Tensor | None = None
        self.ids: Tensor | None = None

    def look(self, tile: Float[Tensor, "token stream tile"], peak: Tensor, first: int) -> None:
        """Add a tile. Few streams have a new best token in a later tile, and only these are searched.

        A GPU takes nearly every vocabulary in one tile, so it need not determine these streams.
        """
        if first == 0:
            self.peak, self.token = peak, tile.argmax(-1)
        else:
            ahead = (peak > self.peak).nonzero(as_tuple=True)
            self.token[ahead] = first + tile[ahead].argmax(-1)
            self.peak = torch.maximum(self.peak, peak)
        if self.k:
            self._merge(tile, first)

    def _merge(self, tile: Tensor, first: int) -> None:
        ids = top_k_ids(tile, min(self.k, tile.shape[-1]))
        values, ids = tile.gather(-1, ids), ids + first
        if self.values is not None and self.ids is not None:
            values, ids = torch.cat([self.values, values], -1), torch.cat([self.ids, ids], -1)
            best = top_k_ids(values, min(self.k, values.shape[-1]))  # ties go to the earlier one, hence the lower id
            values, ids = values.gather(-1, best), ids.gather(-1, best)
        self.values, self.ids = values, ids

    def measures(self) -> dict[str, Tensor]:
        overlap = torch.full(self.token.shape, torch.nan) if self.ids is None else jaccard(self.ids, self.ids[:, :1])
        agreement = (self.token == self.token[:, :1]).float()
        return {"top_token": self.token, "agreement": agreement, "top_k_overlap": overlap}


class _Kept:
    """All tiles of a part, for measures that need the whole softmax."""

    def __init__(self) -> None:
        self.memory: list[Tensor] = []
        self.first: list[int] = []
        self.n_tokens = 0

    def keep(self, number: int, first: int, tile: Float[Tensor, "token stream tile"]) -> None:
        """Copy a tile into memory that all parts share; only the last part may be smaller."""
        self.n_tokens = len(tile)
        if number == len(self.memory):
            self.memory.append(tile.clone())
            self.first.append(first)
        else:
            self.memory[number][: self.n_tokens] = tile

    def measures(self, sums: _Sums, top: Int[Tensor, " token"], *, clamped: bool) -> dict[str, Tensor]:
        """Ranks of the base's most probable tokens, then divergences; the tiles are overwritten."""
        tiles = [tile[: self.n_tokens] for tile in self.memory]
        top_logit = _At(top)
        for first, tile in zip(self.first, tiles, strict=True):
            top_logit.look(tile, first)
        rank, mixed, raised, spare = torch.ones_like(sums.peak[0]), list[Tensor](), list[Tensor](), None
        # Subtract the peak first, then the rest: near the peak, where it matters, the first subtraction is exact.
        rests = _wide(torch.stack(sums.peak, -1)) - sums.log_sum[..., None]
        rest = rests.float().to(tiles[0].device).unbind(-1)
        for first, tile, peak, beyond in zip(self.first, tiles, sums.peak, rest, strict=True):
            spare = _like(tile, spare)
            rank += torch.gt(tile, top_logit.logit, out=spare).sum(-1)
            earlier = torch.arange(first, first + tile.shape[-1], device=tile.device) < top[:, None, None]
            rank += torch.eq(tile, top_logit.logit, out=spare).mul_(earlier).sum(-1)
            if clamped:
                raised.append(_raised(tile, peak, beyond, spare))
            mixed.append(_mixture(tile, peak, beyond, spare))
        entropies = {"clamped_entropy": _wide(torch.stack(raised, -1)).sum(-1).float()} if clamped else {}
        js = math.log(2) - _wide(torch.stack(mixed, -1)).sum(-1) / 2 - (sums.nats + sums.nats[:, :1]) / 2
        return {"reciprocal_rank": 1 / rank, "js_divergence": js.clamp(min=0).float(), **entropies}


def _mixture(
    tile: Float[Tensor, "token stream tile"], peak: Tensor, rest: Tensor, spare: Tensor
) -> Float[Tensor, "token stream"]:
    """Sum of (p + q) log(p + q) with the base's and the stream's probabilities; the logits are overwritten."""
    probabilities = tile.sub_(peak[..., None]).add_(rest[..., None]).exp_()
    both = probabilities.add_(probabilities[:, :1].clone()).clamp_(min=torch.finfo(tile.dtype).tiny)
    return both.mul_(torch.log(both, out=spare)).sum(-1)


def _raised(
    tile: Float[Tensor, "token stream tile"], peak: Tensor, rest: Tensor, spare: Tensor
) -> Float[Tensor, "token stream"]:
    """Sum of -p log2 p over a tile, with probabilities raised to at least 1e-9."""
    probabilities = torch.sub(tile, peak[..., None], out=spare).add_(rest[..., None]).exp_()
    probabilities = probabilities.clamp_(min=_LEAST_PROBABILITY)
    return -(probabilities * probabilities.log2()).sum(-1)


def _wide(values: Tensor) -> Tensor:
    """The same numbers in float64 on the host, because they are few and not every device has float64."""
    return values.cpu().double()


def _divergence(nats: Tensor) -> Tensor:
    """Clipped at 0 against rounding; infinite if one side excludes a token that the other allows."""
    return torch.where(nats > _EXCLUDED, torch.inf, nats.clamp(min=0))


def _like(tile: Tensor, memory: Tensor | None) -> Tensor:
    """Memory of a tile's shape; reuses this one if it fits."""
    return torch.empty_like(tile) if memory is None or memory.shape != tile.shape else memory
