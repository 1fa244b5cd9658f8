"""Attention to the previous tokens (section 5.1, Fig. 6a): is the first stage local?

The paper plots "attention to the previous five tokens" by layer: high in the first layers, where tokens are merged into
words, and falling with depth. The authors' code averages single entries A[q, q - i], i = 1..5, which is about a fifth
of the mass on five tokens; it counts position 0 (BOS) as a key like any other and weights every document equally,
without those that are NaN or zero in all layers. Its band is the standard deviation over the square root of 100,
whatever the number of documents (`protocol="paper"` gives this mean and band).

`"corrected"` sums the attention to the previous k tokens without position 0, and weights every query equally. It
reports the sum as a share of all attention and of attention not paid to position 0, because a growing sink alone makes
attention to all other tokens fall with depth. The figure also shows attention to position 0 (the sink) and the value
for uniform attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION
from mechicl.hooks import run
from mechicl.probes.local_attention import WINDOWS, LocalAttention
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, head_grids
from mechicl.studies.stages.sequences import authors_summary, weighted_means, weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import by_layer, of_documents, slope

_SOURCE = "Stages of Inference, section 5.1, Fig. 6a"
_LEVEL = "the same in all layers"
FALLS = Claim(
    "locality-falls", "Attention to the previous five tokens falls with depth.", _SOURCE,
    "fall from the first layer to the last, by a line through all layers", "of attention", _LEVEL, 0.05,
)  # fmt: skip
FREE = Claim(
    "locality-falls-without-sink",
    "Attention to the previous five tokens also falls with depth if the sink is left out.", _SOURCE, FALLS.quantity,
    "of attention not paid to position 0", _LEVEL, 0.05,
)  # fmt: skip
_AUTHORS_DOCUMENTS = 100
"""The authors' standard errors divide by the square root of this number, whatever the number of documents."""
_AUTHORS_BAND = "band: standard deviation over documents / 10, as the authors draw it"
_COLOURS = (SKY, BLUE, GREEN, VERMILION, ORANGE, PURPLE)
_CLAIMED = 5
"""The window of the claims, and of the paper."""


@dataclass(frozen=True)
class LocalAttentionStudy(Study):
    """Attention to the previous k tokens, to position 0 and to itself: a row per sequence, layer and head.

    Shares of attention, between 0 and 1.
    """

    windows: Annotated[tuple[int, ...], Switch("Numbers of previous tokens.", min=1)] = WINDOWS
    by_head: Annotated[bool, Switch("Also draw the attention of every head.")] = False

    name = "local-attention"
    title = "Attention to the previous tokens"
    shows = "Attention to the previous tokens, to position 0 and to itself, by layer and head."
    source = "Stages of Inference, section 5.1, Fig. 6a"
    claim = (
        "In the first layers attention is local: it merges the last few tokens into words. With depth it becomes less "
        "local."
    )
    claims = (FALLS, FREE)
    reads = "text"
    batch_size = 8
    not_measured = ("by_head",)

    @property
    def may_lack(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(LocalAttention(self.windows).units)  # undefined for a sequence shorter than the window

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        return run(model, corpus, [LocalAttention(self.windows)], batch_size=batch_size).frame()

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        share = f"mass_{_CLAIMED}" if claim is FALLS else f"free_{_CLAIMED}"
        if share not in table:
            return Evidence.nothing(f"This claim needs a window of {_CLAIMED} tokens.")
        if table["layer"].nunique() < 2:
            return Evidence.nothing("This claim needs a model of two layers or more.")
        sink = table.groupby("layer")["sink"].mean()
        least, most = (int(place(sink.to_numpy())) for place in (np.argmin, np.argmax))
        note = (
            f"Position 0 receives {sink[least]:.0%} of attention in layer {least} (least), {sink[most]:.0%} in layer "
            f"{most} (most)."
        )
        return of_documents(-slope(by_layer(table, share).dropna()), note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means over heads and queries per layer: model, metric, layer, mean, low, high, n (sequences), seeds."""
        heads = table.groupby(["model", "sequence", "layer"], as_index=False).mean(numeric_only=True)
        if self.protocol == "paper":
            read = heads.groupby(["model", "sequence"])["pooled"].transform(lambda means: (means.fillna(0) != 0).any())
            return authors_summary(heads[read], ["pooled"], ["model"], "layer", root_of=_AUTHORS_DOCUMENTS)
        terms = LocalAttention(self.windows).terms
        return weighted_summary(heads, {name: count for name, count in terms.items() if name in heads})

    def _by_head(self, table: pd.DataFrame, windows: Sequence[int]) -> list[Panel]:
        """Attention of every head to the previous k tokens, for each of the windows."""
        grids = {}
        for k in windows:
            means = weighted_means(table, {f"mass_{k}": f"queries_{k}"}, ["layer", "head"])
            tokens = "token" if k == 1 else f"{k} tokens"
            grid = means.pivot(index="layer", columns="head", values=f"mass_{k}")
            grids[f"attention to the previous {tokens}, by head"] = grid.to_numpy()
        return head_grids(grids, "share of attention", colorscale="Viridis", zmin=0, zmax=1)

    def drawing(self, result: Result) -> Drawing:
        middle, main = self.windows[len(self.windows) // 2], f"k = {_CLAIMED}"
        panels = [
            Panel("attention to the previous k tokens",
                  [*(Curve(f"mass_{k}", f"k = {k}", _COLOURS[i % 6]) for i, k in enumerate(self.windows)),
                   Curve(f"null_{middle}", f"uniform attention, k = {middle}", GREY, "dot")],
                  main=main),
            Panel("the same, without the sink's share",
                  [Curve(f"free_{k}", f"k = {k}", _COLOURS[i % 6]) for i, k in enumerate(self.windows)], main=main),
            *([Panel("attention to the k-th previous token alone",
                     [Curve(f"at_{k}", f"k = {k}", _COLOURS[i % 6]) for i, k in enumerate(self.windows)], main=main)]
              if f"at_{middle}" in result.table else []),  # earlier versions did not measure it
            Panel("to position 0, and to itself",
                  [Curve("sink", "position 0", INK), Curve("self", "itself", VERMILION, "dash")]),
            Panel("the authors' mean entry, k ≤ 5", [Curve("pooled", "authors' mean", GREY)]),
        ]  # fmt: skip
        paper = self.protocol == "paper"
        if self.by_head and not paper:
            panels += self._by_head(result.table, sorted({self.windows[0], middle}))
        return Drawing(
            result.summary(), panels[-1:] if paper else panels, y_title="share of attention",
            note=f"mean over heads; {_AUTHORS_BAND if paper else TEXT_BAND}", y_axis={"rangemode": "tozero"},
        )  # fmt: skip
