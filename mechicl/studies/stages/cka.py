"""Similarity of layers' representations: linear CKA (section 5, Fig. 4, 5 and 14).

We compare the residual stream at the last token of many sequences between every two depths, with the unbiased
estimate of HSIC (`mechicl.metrics.similarity`). The paper reads blocks of similar layers off the matrix, and its
stages off the blocks. It took last tokens of texts of at most 512 tokens, 128 at a time, and published no code.

Only last tokens are kept, a minibatch at a time. `protocol="paper"` takes minibatches of 128 and averages their CKA.
`"corrected"` averages HSIC over minibatches and divides once: a mean of ratios is biased. Its minibatches are smaller
(the unbiased estimate has the same mean at any size), so that there are enough of them to resample for an interval. A
last minibatch of fewer than four sequences is left out.

Similarity that only falls with distance looks blocky, too. So we compare the best division into blocks with the best
division of the same matrix after every entry is replaced by the mean at its distance (`blocks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREY
from mechicl.hooks import run
from mechicl.metrics import hsic_matrix
from mechicl.probes import LastResidual
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.parts import Material, Part
from mechicl.studies.stages.blocks import best_blocks, by_distance, divisions, explained_by_blocks
from mechicl.studies.stages.ensembles import FloatArray
from mechicl.studies.study import Condition, Study

_LEAST = 4
"""Samples that an unbiased HSIC needs."""
_BLOCKS = 4
"""As many as the paper has stages."""
_RESAMPLES = 500


@dataclass(frozen=True)
class Cka(Study):
    """HSIC between every two depths of the residual: a row per minibatch and pair of depths.

    `result.study.block_structure(result.table)` gives the blocks.
    """

    minibatch: Annotated[int, Switch('Sequences of which one HSIC is made (protocol "paper": 128).', min=4)] = 16

    name = "cka"
    title = "Similarity of layers (linear CKA)"
    shows = "Similarity of all layers' representations at last tokens: linear CKA and its blocks."
    source = "Stages of Inference, section 5, Fig. 4, 5 and 14"
    claim = "Layers form blocks whose representations are alike, which agree with the stages."
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
            raise InputError(f"CKA needs at least {_LEAST} sequences; take more text, or shorter sequences.")
        return enough, origin

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        last = run(model, corpus, [probe := LastResidual()], batch_size=batch_size)[probe].values
        hsic = hsic_matrix(last.transpose(0, 1))
        layer, other = torch.meshgrid(torch.arange(len(hsic)), torch.arange(len(hsic)), indexing="ij")
        return pd.DataFrame(
            {"sequence": 0, "sequences": len(corpus), "layer": layer.flatten(), "other": other.flatten(),
             "hsic": hsic.flatten().numpy()}
        )  # fmt: skip

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """CKA of every two depths: model, metric ("with point j"), layer, mean, low, high, n (minibatches), seeds.

        Point i is the residual before layer i, point L that after the last.
        """
        parts = []
        for model, rows in table.groupby("model", sort=False):
            matrices, weights = _matrices(rows)
            mean, (low, high) = self._cka(matrices, weights[None])[0], self._interval(matrices, weights)
            if not np.isfinite(mean).all():
                raise InputError(
                    f"The residuals of last tokens before layer {int(np.isnan(mean).all(1).argmax())} of {model} do "
                    f"not vary: all texts end alike; take packed sequences, or more of them."
                )
            for other in range(len(mean)):
                column = {"mean": mean[:, other], "low": low[:, other], "high": high[:, other]}
                facts = {"model": model, "metric": f"with point {other}", "layer": range(len(mean))}
                parts.append(pd.DataFrame({**facts, **column, "n": len(weights), "seeds": 1}))
        return pd.concat(parts, ignore_index=True)

    def _cka(self, hsic: FloatArray, weights: FloatArray) -> FloatArray:
        """CKA [draw layer layer] of minibatches' HSIC [minibatch layer layer] under weights [draw minibatch]."""
        weights = weights / weights.sum(1, keepdims=True)
        if self.protocol == "paper":
            return np.asarray(np.einsum("dm,mij->dij", weights, _ratio(hsic)))
        return _ratio(np.einsum("dm,mij->dij", weights, hsic))

    def _draws(self, hsic: FloatArray, weights: FloatArray) -> FloatArray:
        generator = np.random.default_rng(0)
        n = len(weights)
        return self._cka(hsic, weights * generator.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES))

    def _interval(self, hsic: FloatArray, weights: FloatArray) -> FloatArray:
        if len(weights) == 1:  # nothing is known of the spread
            return np.full((2, *hsic.shape[1:]), np.nan)
        return np.asarray(np.nanquantile(self._draws(hsic, weights), [0.025, 0.975], axis=0))

    def block_structure(self, table: pd.DataFrame) -> pd.DataFrame:
        """The best blocks of every model: model, starts, explained, by_distance (what the best blocks explain where
        similarity depends on distance alone), and low, high of the difference over resampled minibatches.
        """
        rows = []
        for model, of_model in table.groupby("model", sort=False):
            hsic, weights = _matrices(of_model)
            cka = self._cka(hsic, weights[None])
            n_blocks = min(_BLOCKS, cka.shape[-1] - 1)
            best, smooth = (best_blocks(matrix[0], n_blocks) for matrix in (cka, by_distance(cka)))
            low = high = np.nan
            if len(weights) > 1:
                draws, ways = self._draws(hsic, weights), divisions(cka.shape[-1], n_blocks)
                differences = [
                    explained_by_blocks(one[None], ways).max() - explained_by_blocks(by_distance(one[None]), ways).max()
                    for one in draws[np.isfinite(draws).all((1, 2))]
                ]
                low, high = np.quantile(differences, [0.025, 0.975])
            rows.append((model, best.starts, best.explained, smooth.explained, low, high))
        return pd.DataFrame(rows, columns=["model", "starts", "explained", "by_distance", "low", "high"])

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        matrix, low, high = (_square(summary, column) for column in ("mean", "low", "high"))
        points = list(range(len(matrix)))
        heat_map = go.Heatmap(
            x=points, y=points, z=matrix, colorscale="Viridis", zmin=min(0.0, float(matrix.min())), zmax=1,
            showscale=True, customdata=np.stack([low, high], -1),
            hovertemplate="before %{y} and %{x}: %{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        )  # fmt: skip
        i, j = np.triu_indices(len(points), 1)
        pairs = pd.DataFrame({"distance": j - i, "mean": matrix[i, j], "low": np.nan, "high": np.nan})
        dots = go.Scatter(
            x=pairs["distance"], y=pairs["mean"], mode="markers", marker={"color": GREY, "size": 5}, name="two depths",
            customdata=np.stack([i, j], -1), hovertemplate="before %{customdata[0]} and %{customdata[1]}: %{y:.3f}",
        )  # fmt: skip
        panels = [
            Panel("CKA at each distance", [dots, Curve("cka", "mean at that distance", BLUE)],
                  x_axis={"title_text": "layers apart"},
                  y_axis={"title_text": "CKA", "range": [min(0, float(matrix.min())) - 0.02, 1.05]}),
            Panel("CKA of the residuals before two layers", [heat_map],
                  y_axis={"autorange": "reversed", "dtick": max(1, -(-len(points) // 12))}),
        ]  # fmt: skip
        return Drawing(
            pairs.groupby("distance", as_index=False).mean().assign(metric="cka"), panels, x="distance",
            x_title="residual before layer", y_title="residual before layer", hover="closest",
            note=f"{_counted(result.table)}; white: the best blocks",
        )  # fmt: skip

    def figure(self, result: Result) -> go.Figure:
        figure = super().figure(result)
        starts = self.block_structure(result.table).iloc[0]["starts"]
        n_points = int(result.table["layer"].max()) + 1
        for start, stop in zip(starts, (*starts[1:], n_points), strict=True):
            figure.add_shape(
                type="rect", x0=start - 0.5, x1=stop - 0.5, y0=start - 0.5, y1=stop - 0.5,
                line={"color": "white", "width": 2}, row=1, col=2,
            )  # fmt: skip
        return figure

    def finding(self, result: Result) -> str:
        parts = []
        for row in self.block_structure(result.table).to_dict("records"):
            verdict = "too few minibatches for an interval"
            if np.isfinite(row["low"]):
                verdict = f"difference [{row['low']:+.0%}, {row['high']:+.0%}]"
            starts = ", ".join(map(str, row["starts"]))
            parts.append(
                f"{row['model']}: the best blocks (from layers {starts}) explain {row['explained']:.0%} of the "
                f"variance of CKA; where CKA depends on distance alone, {row['by_distance']:.0%} ({verdict})"
            )
        return ". ".join(parts) + f" ({_counted(result.table)})."


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


def _counted(table: pd.DataFrame) -> str:
    minibatches = table.drop_duplicates(["model", "sequence"])
    return f"{int(minibatches['sequences'].sum())} sequences in {len(minibatches)} minibatches"
