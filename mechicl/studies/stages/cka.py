"""Similarity of layers' representations: linear CKA (section 5, Fig. 4, 5 and 14).

We compare the residual stream at the last token of many sequences between every two depths, with the unbiased estimate
of HSIC. The paper identifies blocks of similar layers in the matrix, and stages with these blocks. It used last tokens
of texts of at most 512 tokens, 128 at a time, and published no code.

A few residuals of large norm can dominate HSIC: two sequences of 97 can create or remove all blocks. So `"corrected"`
divides each residual by its norm, and reports raw residuals in addition. The leverage of a sequence is its share in the
sum of a layer's squared similarities: 1 / n if all weigh the same, 1/2 if two dominate. The table has the largest, and
a share above a third raises a warning.

Only last tokens are kept, one minibatch at a time. `protocol="paper"` uses minibatches of 128 and averages their CKA.
`"corrected"` averages HSIC over minibatches and divides once, because a mean of ratios is biased. Its minibatches are
smaller (the unbiased estimate has the same mean at any size), so that there are enough to resample for an interval. A
last minibatch of fewer than four sequences is left out.

Similarity that only falls with distance looks blocky, too. So we compare the best division into blocks with the best
division of the same matrix after every entry is replaced by the mean at its distance. Early layers change a short
residual a lot, which makes blocks with random weights, too, so the claim is tested against untrained twins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.claims import Claim, Evidence, dominates
from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREY
from mechicl.hooks import run
from mechicl.metrics import hsic_matrix
from mechicl.metrics.resampling import FEW_SETS, SetInterval, jackknife
from mechicl.probes import LastResidual
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.parts import Material, Part
from mechicl.studies.stages.blocks import best_blocks, by_distance, divisions, explained_by_blocks
from mechicl.studies.stages.ensembles import FloatArray
from mechicl.studies.twins import TWINS, AgainstTwins, beyond, given

BLOCKS = Claim(
    "layer-blocks", "Layers form blocks of similar representations.",
    "Stages of Inference, section 5, Fig. 4, 5 and 14",
    "share of the variance of CKA that blocks explain beyond what distance alone does", "of the variance", TWINS, 0.05,
)  # fmt: skip
UNIT, RAW = "unit norm", "raw"
_LEAST = 4
"""Samples that an unbiased HSIC needs."""
_BLOCKS = 4
"""The number of stages in the paper."""
_RESAMPLES = 500


@dataclass(frozen=True)
class Cka(AgainstTwins):
    """HSIC between every two depths of the residual: a row per minibatch, kind of residual and pair of depths.

    `leverage`, the largest share of one sequence in a depth's similarities, is given if both depths are the same.

    `result.study.block_structure(result.table)` gives the blocks.
    """

    minibatch: Annotated[int, Switch("Sequences per HSIC minibatch (protocol paper: 128).", min=4)] = 16

    name = "cka"
    title = "Similarity of layers (linear CKA)"
    shows = "Similarity of all layers' representations at last tokens: linear CKA and its blocks."
    source = "Stages of Inference, section 5, Fig. 4, 5 and 14"
    claim = "Layers form blocks of similar representations, and the blocks agree with the stages."
    claims = (BLOCKS,)
    may_lack = ("leverage",)  # undefined between two depths
    each_twin_reads = None
    reads = "text"
    batch_size = 8
    shared_options = {"processing": "fold"}

    @property
    def sequences_a_cell(self) -> int:
        return 128 if self.protocol == "paper" else self.minibatch

    def parts(self, material: Material) -> tuple[list[Part], dict[str, Any]]:
        parts, origin = super().parts(material)
        enough = [part for part in parts if isinstance(part.material, TokenCorpus) and len(part.material) >= _LEAST]
        if not enough:
            raise InputError(f"CKA needs at least {_LEAST} sequences; use more text, or shorter sequences.")
        return enough, origin

    @property
    def residuals(self) -> tuple[str, ...]:
        """Kinds of residuals; the figure and the claim use the first."""
        return (RAW,) if self.protocol == "paper" else (UNIT, RAW)

    def read(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        last = run(model, corpus, [probe := LastResidual()], batch_size=batch_size)[probe].values.transpose(0, 1)
        n = len(last)
        layer, other = (place.flatten() for place in np.indices((n, n)))
        tables = []
        for kind in self.residuals:
            vectors = last if kind == RAW else torch.nn.functional.normalize(last.double(), dim=-1)
            leverage = np.where(layer == other, largest_leverage(vectors).numpy()[layer], np.nan)
            hsic = hsic_matrix(vectors).flatten().numpy()
            facts = {"sequence": 0, "sequences": len(corpus), "residuals": kind, "layer": layer, "other": other}
            tables.append(pd.DataFrame({**facts, "hsic": hsic, "leverage": leverage}))
        return pd.concat(tables, ignore_index=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        (row,) = self.block_structure(given(table)).to_dict("records")
        note = self._told(given(table), row["starts"])
        if (depths := 1 + int(table["layer"].max())) < _BLOCKS + 2:
            return Evidence.nothing(f"{depths} depths are too few for {_BLOCKS} blocks; use a deeper model.", note)
        twins = table.loc[table["weights"] != table["weights"].iloc[0], ["weights"]].drop_duplicates()["weights"]
        gains = []
        for one in twins:
            (twin,) = self.block_structure(where(table, weights=one), interval=False).to_dict("records")
            gains.append(twin["explained"] - twin["by_distance"])
        gain, minibatches = row["explained"] - row["by_distance"], given(table)["sequence"].nunique()
        values = np.array([gain])
        if len(gains) < 2:
            return Evidence(values, None, np.zeros(1), note=note)
        found = SetInterval(gain, row["low"], row["high"], minibatches, minibatches)
        if minibatches > 1 and np.isnan(found.low):
            return Evidence.nothing("CKA is undefined without one of the minibatches; use more text.", note)
        return Evidence(values=values, sets=np.zeros(1), unit_sampled="minibatches", note=note, **beyond(found, gains))

    def _told(self, table: pd.DataFrame, starts: tuple[int, ...]) -> str:
        """The best blocks, those of raw residuals, and whether single sequences dominate either."""
        n_layers = int(table["layer"].max())

        def places(starts: tuple[int, ...]) -> str:
            inner = ", ".join(str(start) for start in starts if start < n_layers)
            return f"{inner} and after the last layer" if starts[-1] == n_layers else inner

        texts = [f"Blocks start before layers {places(starts)}"]
        if len(self.residuals) > 1:
            (raw,) = self.block_structure(table, RAW, interval=False).to_dict("records")
            texts[0] += f" (raw residuals: {places(raw['starts'])})"
        for kind, rows in table.groupby("residuals", sort=False):
            worst = rows.nlargest(1, "leverage").iloc[0]
            if dominates(worst["leverage"], worst["sequences"]):
                texts.append(
                    f"{worst['leverage']:.0%} of the similarities of {kind} residuals before layer {worst['layer']} "
                    f"are those of one sequence in {worst['sequences']}"
                )
        return f"{'. '.join(texts)} ({_counted(table)})."

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """CKA of every two depths: model, residuals, metric ("with point j"), layer, mean, low, high, n, seeds.

        Point i is the residual before layer i, point L the one after the last; n counts minibatches.
        """
        parts = []
        for (model, kind), rows in given(table).groupby(["model", "residuals"], sort=False):
            matrices, weights = _matrices(rows)
            mean, (low, high) = self._cka(matrices, weights[None])[0], self._interval(matrices, weights)
            if not np.isfinite(mean).all():
                raise InputError(
                    f"The residuals of last tokens before layer {int(np.isnan(mean).all(1).argmax())} of {model} do "
                    f"not vary: all texts end alike; use packed sequences, or more of them."
                )
            for other in range(len(mean)):
                column = {"mean": mean[:, other], "low": low[:, other], "high": high[:, other]}
                facts = {"model": model, "residuals": kind, "metric": f"with point {other}", "layer": range(len(mean))}
                parts.append(pd.DataFrame({**facts, **column, "n": len(weights), "seeds": 1}))
        return pd.concat(parts, ignore_index=True)

    def _cka(self, hsic: FloatArray, weights: FloatArray) -> FloatArray:
        """CKA [draw layer layer] of minibatches' HSIC [minibatch layer layer] under weights [draw minibatch]."""
        weights = weights / weights.sum(1, keepdims=True)
        if self.protocol == "paper":
            return np.asarray(np.einsum("dm,mij->dij", weights, _ratio(hsic)))
        return _ratio(np.einsum("dm,mij->dij", weights, hsic))

    def _interval(
        self, hsic: FloatArray, weights: FloatArray, of: Callable[[FloatArray], FloatArray] = np.asarray
    ) -> FloatArray:
        """Low and high of a statistic of CKA matrices [draw layer layer], by default CKA, over minibatches.

        Few minibatches are left out in turn, because resampling them undercovers; the spread of one is unknown.
        """
        n = len(weights)
        whole = of(self._cka(hsic, weights[None]))[0]
        if n == 1:
            return np.full((2, *whole.shape), np.nan)
        if n < FEW_SETS:
            without = of(self._cka(hsic, weights * (1 - np.eye(n))))
            return np.stack(jackknife(whole, without)).clip(max=1)  # NaN where CKA is undefined without one
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
        return np.asarray(np.nanquantile(of(self._cka(hsic, weights * drawn)), [0.025, 0.975], axis=0))

    def block_structure(
        self, table: pd.DataFrame, residuals: str | None = None, *, interval: bool = True
    ) -> pd.DataFrame:  # fmt: skip
        """The best blocks of every model: model, starts, explained, by_distance (what the best blocks explain if
        similarity depends on distance alone), and low, high of the difference over minibatches (NaN if it is undefined
        without one of few).
        """
        rows = []
        if "residuals" not in table:
            raise InputError("An earlier version saved this table without unit-norm residuals; run cka again.")
        table = where(table, residuals=residuals or self.residuals[0])
        for model, of_model in table.groupby("model", sort=False):
            hsic, weights = _matrices(of_model)
            cka = self._cka(hsic, weights[None])
            n_blocks = min(_BLOCKS, cka.shape[-1] - 1)
            best, smooth = (best_blocks(matrix[0], n_blocks) for matrix in (cka, by_distance(cka)))
            gain = partial(_beyond_distance, ways=divisions(cka.shape[-1], n_blocks))
            low, high = self._interval(hsic, weights, gain) if interval else (np.nan, np.nan)
            rows.append((model, best.starts, best.explained, smooth.explained, low, high))
        return pd.DataFrame(rows, columns=["model", "starts", "explained", "by_distance", "low", "high"])

    def drawing(self, result: Result) -> Drawing:
        summary = where(result.summary(), residuals=self.residuals[0])
        matrix, low, high = (_square(summary, column) for column in ("mean", "low", "high"))
        starts = self.block_structure(given(result.table), interval=False)["starts"].iloc[0]
        maps = {kind: _square(where(result.summary(), residuals=kind), "mean") for kind in self.residuals}
        lowest = min(0.0, *(float(one.min()) for one in maps.values()))
        i, j = np.triu_indices(len(matrix), 1)
        pairs = pd.DataFrame({"distance": j - i, "mean": matrix[i, j], "low": np.nan, "high": np.nan})
        dots = go.Scatter(
            x=pairs["distance"], y=pairs["mean"], mode="markers", marker={"color": GREY, "size": 5}, name="two depths",
            customdata=np.stack([i, j], -1), hovertemplate="before %{customdata[0]} and %{customdata[1]}: %{y:.3f}",
        )  # fmt: skip
        panels = [
            Panel("CKA at each distance", [dots, Curve("cka", "mean at that distance", BLUE)],
                  x_axis={"title_text": "layers apart"},
                  y_axis={"title_text": "CKA", "range": [min(0, float(matrix.min())) - 0.02, 1.05]}),
            _map(f"CKA of {self.residuals[0]} residuals before two layers", _heat_map(matrix, lowest, low, high),
                 _outlines(starts, len(matrix))),
        ]  # fmt: skip
        if RAW in self.residuals[1:]:
            panels.append(_map("CKA of raw residuals", _heat_map(maps[RAW], lowest)))
        return Drawing(
            pairs.groupby("distance", as_index=False).mean().assign(metric="cka"), panels, x="distance",
            x_title="residual before layer", y_title="residual before layer", hover="closest",
            note=f"{_counted(result.table)}; white: the best blocks",
        )  # fmt: skip


def _map(title: str, heat_map: go.Heatmap, *outlines: go.Scatter) -> Panel:
    ends = [-0.5, len(heat_map.z) - 0.5]
    return Panel(title, [heat_map, *outlines], {"range": ends}, {"range": ends[::-1], "dtick": 1})


def _outlines(starts: Sequence[int], n_points: int) -> go.Scatter:
    """The blocks, as squares along the diagonal."""
    corners: list[float | None] = []
    other: list[float | None] = []
    for start, stop in zip(starts, (*starts[1:], n_points), strict=True):
        first, last = start - 0.5, stop - 0.5
        corners += [first, last, last, first, first, None]
        other += [first, first, last, last, first, None]
    return go.Scatter(x=corners, y=other, mode="lines", line={"color": "white", "width": 2}, hoverinfo="skip",
                      showlegend=False)  # fmt: skip


def _heat_map(
    matrix: FloatArray, lowest: float, low: FloatArray | None = None, high: FloatArray | None = None
) -> go.Heatmap:
    bounds = (matrix, matrix) if low is None or high is None else (low, high)
    interval = "" if low is None else " [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
    return go.Heatmap(
        z=matrix, colorscale="Viridis", zmin=lowest, zmax=1,
        colorbar={"title": {"text": "CKA", "side": "right"}},
        customdata=np.stack(bounds, -1), hovertemplate=f"before %{{y}} and %{{x}}: %{{z:.3f}}{interval}<extra></extra>",
    )  # fmt: skip


def largest_leverage(vectors: Float[Tensor, "layer sequence d"]) -> Float[Tensor, " layer"]:
    """Per layer, the largest share that one sequence has in the squared similarities of different sequences."""
    centred = vectors.double() - vectors.double().mean(1, keepdim=True)
    squares = (centred @ centred.transpose(1, 2)) ** 2
    squares.diagonal(dim1=1, dim2=2).zero_()
    return squares.sum(2).max(1).values / squares.sum((1, 2)).clamp(min=1e-300)


def _matrices(rows: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """HSIC [minibatch layer layer] and the number of sequences of each minibatch."""
    n = int(rows["layer"].max()) + 1
    ordered = rows.sort_values(["sequence", "layer", "other"], kind="stable")
    return ordered["hsic"].to_numpy(float).reshape(-1, n, n), ordered["sequences"].to_numpy(float)[:: n * n]


def _ratio(hsic: FloatArray) -> FloatArray:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of matrices [draw layer layer]."""
    diagonal = np.diagonal(hsic, axis1=1, axis2=2)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, np.nan))
    return np.asarray(hsic / (scale[:, :, None] * scale[:, None, :]), dtype=np.float64)


def _square(summary: pd.DataFrame, column: str) -> FloatArray:
    """The first model's matrix [layer layer]."""
    first = where(summary, model=summary["model"].iloc[0])
    n = int(first["layer"].max()) + 1
    return np.asarray(first[column].to_numpy(float).reshape(n, n), dtype=np.float64)


def _beyond_distance(cka: FloatArray, ways: Any) -> FloatArray:
    """What the best blocks explain, beyond what they do if similarity depends on distance alone: [draw]."""
    gains = [
        explained_by_blocks(one[None], ways).max() - explained_by_blocks(by_distance(one[None]), ways).max()
        if np.isfinite(one).all() else np.nan
        for one in cka
    ]  # fmt: skip
    return np.array(gains)


def _counted(table: pd.DataFrame) -> str:
    minibatches = given(table).drop_duplicates(["model", "sequence"])
    n = len(minibatches)
    return f"{int(minibatches['sequences'].sum())} sequences in {n} minibatch{'es' * (n > 1)}"
