"""Similarity of layers' representations: linear CKA (section 5, Fig. 4, 5 and 14).

The residual stream at the last token of many sequences is compared between every two depths, with the unbiased
estimate of HSIC (`mechicl.metrics.similarity`). The paper reads blocks of similar layers off the matrix, and its
stages off the blocks. It took last tokens of texts of at most 512 tokens, 128 at a time, and published no code.

Only last tokens are kept, a minibatch at a time. `protocol="paper"` takes minibatches of 128 and averages their CKA.
`"corrected"` averages HSIC over minibatches, and divides once: a mean of ratios is biased. Its minibatches are smaller
(of whatever size, the unbiased estimate has the same mean), so that there are enough of them to resample for an
interval. A last minibatch of fewer than four sequences says nothing and is left out.

Similarity that only falls with distance looks blocky, too. The finding therefore holds the best division into blocks
against the best in the same matrix with entries replaced by the mean at their distance (`blocks.py`).
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
from mechicl.figures import BLUE, GREY, add_curve, panels, styled
from mechicl.hooks import run
from mechicl.metrics import hsic_matrix
from mechicl.probes import LastResidual
from mechicl.results import Result
from mechicl.studies.stages.blocks import best_blocks, by_distance, divisions, explained_by_blocks
from mechicl.studies.stages.ensembles import FloatArray
from mechicl.studies.study import Condition, Material, Part, Study

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

    def _parts(self, material: Material) -> tuple[list[Part], dict[str, Any]]:
        parts, origin = super()._parts(material)
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
        for model, own in table.groupby("model", sort=False):
            hsic, weights = _matrices(own)
            cka = self._cka(hsic, weights[None])
            n_blocks = min(_BLOCKS, cka.shape[-1] - 1)
            found = best_blocks(cka[0], n_blocks)
            smooth = best_blocks(by_distance(cka)[0], n_blocks)
            low = high = np.nan
            if len(weights) > 1:
                draws, ways = self._draws(hsic, weights), divisions(cka.shape[-1], n_blocks)
                more = [
                    explained_by_blocks(one[None], ways).max() - explained_by_blocks(by_distance(one[None]), ways).max()
                    for one in draws[np.isfinite(draws).all((1, 2))]
                ]
                low, high = np.quantile(more, [0.025, 0.975])
            rows.append({"model": model, "starts": found.starts, "explained": found.explained,
                         "by_distance": smooth.explained, "low": low, "high": high})  # fmt: skip
        return pd.DataFrame(rows)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        figure = panels(["CKA of the residuals before two layers", "CKA at each distance"], common=False)
        model = str(summary["model"].iloc[0])
        matrix, low, high = (_square(summary, column) for column in ("mean", "low", "high"))
        points = list(range(len(matrix)))
        figure.add_trace(
            go.Heatmap(
                x=points, y=points, z=matrix, colorscale="Viridis", zmin=min(0.0, float(matrix.min())), zmax=1,
                customdata=np.stack([low, high], -1), colorbar={"x": 1.01, "thickness": 12},
                hovertemplate="before %{y} and %{x}: %{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
                "<extra></extra>",
            ),
            row=1, col=1,
        )  # fmt: skip
        blocks = self.block_structure(result.table).iloc[0]
        for start, stop in zip(blocks["starts"], (*blocks["starts"][1:], len(points)), strict=True):
            figure.add_shape(
                type="rect", x0=start - 0.5, x1=stop - 0.5, y0=start - 0.5, y1=stop - 0.5,
                line={"color": "white", "width": 2}, row=1, col=1,
            )  # fmt: skip
        i, j = np.triu_indices(len(points), 1)
        figure.add_trace(
            go.Scatter(x=j - i, y=matrix[i, j], mode="markers", marker={"color": GREY, "size": 5}, name="two depths",
                       customdata=np.stack([i, j], -1),
                       hovertemplate="before %{customdata[0]} and %{customdata[1]}: %{y:.3f}"),
            row=1, col=2,
        )  # fmt: skip
        distances = pd.DataFrame({"distance": j - i, "mean": matrix[i, j], "low": np.nan, "high": np.nan})
        add_curve(figure, distances.groupby("distance", as_index=False).mean(), x="distance",
                  name="mean at that distance", colour=BLUE, column=2)  # fmt: skip
        styled(
            figure, title=f"{self.title}: {model}",
            subtitle=f"{self.source}; protocol {self.protocol}; {_counted(result.table)}; white: the best "
            f"{len(blocks['starts'])} blocks",
            x="residual before layer", y="residual before layer", counts=len(points) - 1,
        )  # fmt: skip
        figure.update_layout(hovermode="closest", margin={"r": 75})  # room for the colours' scale
        figure.update_yaxes(autorange="reversed", dtick=max(1, -(-len(points) // 12)), col=1)
        figure.update_yaxes(range=[min(0, float(matrix.min())) - 0.02, 1.05], title_text="CKA", col=2)
        figure.update_xaxes(title_text="layers apart", col=2)
        return figure

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for row in self.block_structure(result.table).to_dict("records"):
            matrix = _square(summary[summary["model"] == row["model"]], "mean")
            stops = (*row["starts"][1:], len(matrix))
            blocks = ", ".join(
                f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in zip(row["starts"], stops, strict=True)
            )
            more = row["explained"] - row["by_distance"]
            verdict = "too few minibatches to tell blocks from similarity that falls with distance"
            if np.isfinite(row["low"]):
                verdict = (
                    f"{more:+.0%} [{row['low']:+.0%}, {row['high']:+.0%}] against the best blocks where similarity "
                    "only falls with distance" + ("" if row["low"] > 0 else ", which is no evidence of blocks")
                )
            parts.append(
                f"{row['model']}: neighbours {np.diagonal(matrix, 1).mean():.2f}, first to last {matrix[0, -1]:.2f}. "
                f"The best {len(row['starts'])} blocks ({blocks}) explain {row['explained']:.0%} of "
                f"its variance; {verdict}"
            )
        return "CKA of " + ". ".join(parts) + f" ({_counted(result.table)})."


def _matrices(rows: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """HSIC [minibatch layer layer] and the number of sequences of each minibatch."""
    n = int(rows["layer"].max()) + 1
    ordered = rows.sort_values(["sequence", "layer", "other"], kind="stable")
    return ordered["hsic"].to_numpy(float).reshape(-1, n, n), ordered["sequences"].to_numpy(float)[:: n * n]


def _ratio(hsic: FloatArray) -> FloatArray:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of matrices [draw layer layer]."""
    own = np.diagonal(hsic, axis1=1, axis2=2)
    scale = np.sqrt(np.where(own > 0, own, np.nan))
    return np.asarray(hsic / (scale[:, :, None] * scale[:, None, :]), dtype=np.float64)


def _square(summary: pd.DataFrame, column: str) -> FloatArray:
    first = summary[summary["model"] == summary["model"].iloc[0]]
    n = int(first["layer"].max()) + 1
    return np.asarray(first[column].to_numpy(float).reshape(n, n), dtype=np.float64)


def _counted(table: pd.DataFrame) -> str:
    minibatches = table.drop_duplicates(["model", "sequence"])
    return f"{int(minibatches['sequences'].sum())} sequences in {len(minibatches)} minibatches"
