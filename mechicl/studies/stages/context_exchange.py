"""Does the first layer depend only on the current token? (section 5.1) The same tokens after another context.

The paper calls the first layer an extension of the embedding, "only a function of the current token". Literally that is
false, because the first layer has attention; the question is how much of its output comes from the context. So we
exchange the first half of each sequence for that of another: tokens of the second half keep their ids and positions,
and position 0 keeps its token. We compare how far their residuals move with the distance between different tokens at
the same position: 1 minus the ratio is the share of variance that the current token (and tokens since the exchange)
explains. A token right at the exchange shares only itself with its twin; later tokens share more and more of their
context, so the share is also given by distance to the exchange.

Squared distances are between vectors of unit length, because later layers read them normalised and a few dimensions
would dominate raw ones, which are reported in addition. We measure the same for attention's output alone.

If attention writes little, residuals depend mostly on their tokens: in untrained models the token explains 98 % and
more, in all layers. So the share after the first layer is no evidence by itself. The claims ask whether it is larger
than after middle layers, and whether attention's own output in the first layer depends on the token alone; both are
measured right at the exchange, where tokens share nothing else, and against untrained twins. The experiment is our own,
so there is no `protocol="paper"`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION
from mechicl.hooks import Batch, Probe, Watch, run, watch_layers
from mechicl.readings import by_name
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.parts import DOCUMENT
from mechicl.studies.stages.lesion_claims import middle
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import TWINS, AgainstTwins, against_twins, by_layer, given

_SOURCE = "Stages of Inference, section 5.1; a test of our own"
_TOLERANCE = 0.9
ALONE = Claim(
    "first-attention-sees-the-token",
    "What attention writes in the first layer depends almost only on the current token.",
    _SOURCE, "share of variance that the current token explains, minus 0.9", "of variance", TWINS, 0.02,
)  # fmt: skip
FADES = Claim(
    "token-fades", "Residuals depend on the current token more after the first layer than after middle layers.",
    _SOURCE, "share of variance that the token explains after layer 0, minus that after middle layers", "of variance",
    TWINS, 0.05,
)  # fmt: skip
_SITES = {"residual": "hook_resid_post", "attention": "hook_attn_out"}
_KINDS = ("residual", "residual_raw", "attention", "attention_raw")
_SUMS = tuple(f"{kind}_{what}" for kind in _KINDS for what in ("moved", "spread"))
_SHOWN = {
    0: ("at the exchange", INK), 1: ("1 token on", VERMILION), 4: ("4-7 tokens on", ORANGE),
    16: ("16-31 tokens on", BLUE), 64: ("64-127 tokens on", SKY),
}  # fmt: skip
"""Distances to the exchange that are drawn, each up to its double."""
_FEWEST = 4
"""Least number of tokens of a sequence whose first half can be exchanged."""


@dataclass(frozen=True)
class ContextExchange(AgainstTwins):
    """How far residuals and attention outputs move when the context is exchanged: a row per sequence, layer, distance.

    Sums over positions of squared distances: `moved` to the same token after the other context, `spread` to another
    token at the same position; `positions` and `differing` count their terms. `distance` is to the exchange, from each
    power of two to the next. Vectors have unit length, except in `_raw` columns.
    """

    name = "context-exchange"
    title = "The same tokens after another context"
    shows = "How much of each layer's output the current token explains, with the context before it exchanged."
    source = _SOURCE
    claim = "The first layer is an extension of the embedding: its output depends on the current token alone."
    claims = (FADES, ALONE)
    reads = "text"
    no_paper_protocol = "the authors do not measure it"
    batch_size = None
    each_twin_reads = 8
    least_read = 8

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # sequences need one another's contexts

    def passes(self, n_layers: int) -> float:
        return 3

    def read(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        sequences, triples = exchanged(corpus)
        reading = run(model, triples, [probe := _Moved(int(triples.lengths.max()))], batch_size=3)[probe]
        table = reading.frame()
        table = table[(table["sequence"] % 3 == 0) & (table["positions"] > 0)]
        return table.assign(sequence=np.take(sequences, table["sequence"] // 3))

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if int(table["layer"].max()) < 2:
            return Evidence.nothing("This claim needs a model of three layers or more.")
        after, written = (_at_exchange(given(table), kind).mean() for kind in ("residual", "attention"))
        later = after[list(middle(len(after)))].mean()
        note = (
            f"Right at the exchange, the token explains {after[0]:.0%} of the variance of residuals after layer 0, "
            f"{later:.0%} after middle layers, and {written[0]:.0%} of what attention writes in layer 0."
        )
        return against_twins(_FIRST_LAYER[claim.id], table, note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Shares of variance that the token explains: model, metric, layer, mean, low, high, n (sequences), seeds.

        Metrics: residual (after the layer) and attention (its output); "_raw" without normalisation; ", 4" and the like
        at this distance to the exchange and up to its double.
        """
        rows = given(table)
        parts = []
        for kind in _KINDS:
            by_distance = shares(rows, kind, ["distance"]).groupby("distance")
            found = {kind: shares(rows, kind)} | {f"{kind}, {at}": part for at, part in by_distance}
            for name, part in found.items():
                parts.append(weighted_summary(part.rename(columns={"share": name}), {name: "positions"}))
        return pd.concat(parts, ignore_index=True)

    def drawing(self, result: Result) -> Drawing:
        whole = [
            Curve("residual", "residual after the layer", INK), Curve("residual_raw", "residual, raw", GREY, "dot"),
            Curve("attention", "attention's output", GREEN), Curve("attention_raw", "its output, raw", PURPLE, "dot"),
        ]  # fmt: skip
        panels = [Panel("all distances", whole)]
        for kind, title in (("residual", "residual, by distance"), ("attention", "attention, by distance")):
            curves = [Curve(f"{kind}, {at}", name, colour) for at, (name, colour) in _SHOWN.items()]
            panels.append(Panel(title, curves))
        return Drawing(
            result.summary(), panels, y_title="share explained by the token",
            note=f"context exchanged before the second half; {TEXT_BAND}",
        )  # fmt: skip


def exchanged(corpus: TokenCorpus) -> tuple[list[int], TokenCorpus]:
    """Three sequences for each one of the corpus: itself, itself after another's first half, and that other one.

    All three are cut to the shorter length. The other is the next sequence of another document, or simply the next if
    there is only one document. Position 0 is not exchanged.

    Returns:
        The sequences that have a partner, and the triples in this order.

    Raises:
        InputError: there is no other sequence.
    """
    long = [index for index, length in enumerate(corpus.lengths.tolist()) if length >= _FEWEST]
    if len(long) < 2:
        raise InputError(
            f"{corpus.source} has {len(long)} sequence{'s' * (len(long) != 1)} of {_FEWEST} tokens or more, and an "
            "exchange of contexts needs two; use more text."
        )
    document, triples, lengths = corpus.document_of.tolist(), [], []
    for place, index in enumerate(long):
        others = [*long[place + 1 :], *long[:place]]
        other = next((one for one in others if document[one] != document[index]), others[0])
        length = int(torch.minimum(corpus.lengths[index], corpus.lengths[other]))
        own, another = corpus.tokens[index], corpus.tokens[other]
        mixed = torch.cat([own[:1], another[1 : length // 2], own[length // 2 :]])
        real = torch.arange(len(own)) < length
        triples += [torch.where(real, one, 0) for one in (own, mixed, another)]
        lengths += [length] * 3
    tokens = torch.stack(triples)
    none = torch.full_like(tokens, -1)
    return long, replace(corpus, tokens=tokens, lengths=torch.tensor(lengths), documents=none, words=none)


def shares(table: pd.DataFrame, kind: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Of each sequence and layer, the share of variance that the token explains: 1 - moved / spread.

    The spread is that over all sequences: how far different tokens at one position are apart is a property of the
    layer.
    """
    moved, spread = f"{kind}_moved", f"{kind}_spread"
    unit = [*([DOCUMENT] if DOCUMENT in table else []), "model", "sequence", "layer"]
    sums = table.groupby([*unit, *by], as_index=False)[[moved, "positions"]].sum()
    of_layer = table.groupby("layer")[[spread, "differing"]].sum()
    apart = sums["layer"].map(of_layer[spread] / of_layer["differing"].clip(lower=1))
    return sums.assign(share=1 - sums[moved] / sums["positions"] / apart.clip(lower=1e-30))


def _at_exchange(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Shares for tokens that share nothing but themselves, per sequence [sequence layer]."""
    return by_layer(where(shares(rows, kind, ["distance"]), distance=0), "share")


def _fades(rows: pd.DataFrame) -> pd.Series:
    curves = _at_exchange(rows, "residual")
    return curves[0] - curves[list(middle(curves.shape[1]))].mean(axis=1)


def _alone(rows: pd.DataFrame) -> pd.Series:
    return _at_exchange(rows, "attention")[0] - _TOLERANCE


_FIRST_LAYER = {FADES.id: _fades, ALONE.id: _alone}


@dataclass(frozen=True)
class _Moved(Probe):
    """For triples of `exchanged`, in batches of three: sums of squared distances, by distance to the exchange."""

    longest: int
    axes = ("sequence", "layer", "distance")
    units = {**dict.fromkeys(_SUMS, "sum of squared distances"), "positions": "positions", "differing": "positions"}

    def watch(self, model: Any, batch: Batch) -> Watch:
        if len(batch.tokens) != 3:
            raise InputError(f"Three sequences of {self.longest} tokens do not fit into memory; use shorter ones.")
        stop = int(batch.lengths[0])
        start = stop // 2
        own, _, other = batch.tokens[:, start:stop]
        bins = _bins(torch.arange(stop - start, device=batch.tokens.device), self.longest)
        differing = (own != other).float()
        counts = torch.stack([torch.ones_like(differing), differing]) @ bins

        def sums(layer: int, *values: Float[Tensor, "three pos d_model"]) -> Tensor:
            parts = []
            for value in values:
                tail = value[:, start:stop].float()
                for vectors in (torch.nn.functional.normalize(tail, dim=-1), tail):
                    moved, spread = (vectors[1:] - vectors[:1]).square().sum(-1)
                    parts += [moved, spread * differing]
            return torch.cat([torch.stack(parts) @ bins, counts]).expand(3, -1, -1)

        names = (*_SUMS, "positions", "differing")
        return watch_layers(
            model, *_SITES.values(), reduce=sums,
            collect=lambda kept: by_name(kept.movedim(2, -1), names),
            coordinates={"distance": [0, *(2**i for i in range(bins.shape[1] - 1))]},
        )  # fmt: skip


def _bins(distance: Int[Tensor, "pos"], longest: int) -> Float[Tensor, "pos bin"]:
    """One-hot bins of distances: 0, 1, 2-3, 4-7, ..."""
    number = torch.where(distance > 0, distance.clamp(min=1).log2().floor().long() + 1, 0)
    return torch.nn.functional.one_hot(number, longest.bit_length()).float()
