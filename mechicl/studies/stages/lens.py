"""The logit lens (section 5.2, Fig. 8 and 19): how a prediction comes about, from layer to layer.

Each residual is read as if it were the last. The paper shows the entropy of that prediction and its KL to the final
one: little progress in the first half, then a steady decline, and in some models entropy rises again at the very end.

The authors' curves come from a faulty lens: their library divided every residual by the *last* layer's norm, and
the unembedding's bias was left out. Early residuals are short, so their logits nearly vanish and entropy starts
near log2(d_vocab) bits. `protocol="paper"` gives these curves as the notebook does: positions 1 to T - 2, every
document the same. `"corrected"` norms each residual by itself and keeps the bias, so that the last point is the
model's own prediction; it shows the authors' lens beside it. The direction of the paper's KL is not published: ours
is KL(final || lens), the other direction and the Jensen-Shannon divergence are in the table.

A tuned lens (Belrose et al. 2023) may stand beside them: an affine map of each residual, learned on other text, takes
away what is only another basis. What is left of the KL is what the residual does not yet say about the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, ORANGE, VERMILION, add_curve, panels, styled
from mechicl.hooks import run
from mechicl.probes.logit_lens import Lens, LogitLens
from mechicl.probes.tuned_lens import TunedLens
from mechicl.results import Result
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

_STYLES: dict[str, tuple[str, str, str]] = {
    "corrected": ("corrected lens", BLUE, "solid"),
    "authors": ("authors' lens", GREY, "dot"),
    "tuned": ("tuned lens", ORANGE, "dash"),
}
_COLUMNS = {"entropy": 1, "kl": 2, "kl_reverse": 2, "reciprocal_rank": 3, "top_k_overlap": 3}


@dataclass(frozen=True)
class LensStudy(Study):
    """Measures of the lens at L + 1 points of every sequence."""

    top_k: Annotated[int, Switch("Size of the sets of most probable tokens that are compared.", min=1)] = 10
    tuned: Annotated[
        TunedLens | str | Path | None,
        Switch("A tuned lens to draw as a third, or its folder; it was fitted to this model on other text."),
    ] = None
    """Of a result that was loaded, its digest."""

    name = "logit-lens"
    title = "Logit lens"
    shows = "Every layer's residual read as a prediction: the corrected, the authors' and a tuned lens."
    source = "Stages of Inference, section 5.2, Fig. 8 and 19"
    claim = (
        "In the first half the prediction makes little progress; then its distance to the final prediction and its "
        "entropy fall, and in some models entropy rises again in the last layers."
    )
    reads = "text"
    batch_size = 8
    shared_options = {"processing": "fold"}
    may_lack = ("loss",)  # of a sequence of two tokens

    def for_model(self, model: Any) -> LensStudy:
        """A folder becomes the lens that is saved in it."""
        return self if isinstance(self.tuned, TunedLens | None) else replace(self, tuned=TunedLens.load(self.tuned))

    def settings(self) -> dict[str, Any]:
        tuned = self.tuned.digest if isinstance(self.tuned, TunedLens) else self.tuned and str(self.tuned)
        return {"protocol": self.protocol, "top_k": self.top_k, "tuned": tuned}

    def lenses(self) -> tuple[Lens | TunedLens, ...]:
        """The lenses that the protocol asks for, and the tuned one."""
        if isinstance(self.tuned, str | Path):
            raise InputError("Of the tuned lens only the digest was kept with the result; load it with TunedLens.load.")
        plain: tuple[Lens, ...] = ("authors",) if self.protocol == "paper" else ("corrected", "authors")
        return plain if self.tuned is None else (*plain, self.tuned)

    def passes(self, n_layers: int) -> float:
        return 1 + (n_layers + 1) * len(self.lenses())  # a reading and its ranks take as long as the blocks

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        if isinstance(self.tuned, TunedLens):
            self.tuned.check_apart(corpus)
        probes = [LogitLens(lens, self.top_k, last=self.protocol == "corrected") for lens in self.lenses()]
        readings = run(model, corpus, probes, batch_size=batch_size)
        tables = [readings[probe].frame().assign(lens=probe.name) for probe in probes]
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means per point: model, lens, metric, point, mean, low, high, n (sequences), seeds; `loss` in nats."""
        weights: dict[str, str] = LogitLens().terms
        if self.protocol == "paper":
            weights = {name: "one" for name in weights if name != "loss"}
        return weighted_summary(table.assign(one=1.0), weights, ["model", "lens"], "point")

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        figure = panels(["entropy (bits)", "KL(final ‖ lens) (nats)", "1 / rank of the final token"], common=False)
        for lens in summary["lens"].unique():
            name, colour, dash = _STYLES[lens]
            own = summary[summary["lens"] == lens]
            curves = [(metric, name, colour) for metric in ("entropy", "kl", "reciprocal_rank")]
            if lens == "corrected":
                curves += [("kl_reverse", "KL(lens ‖ final)", VERMILION)]
                curves += [("top_k_overlap", f"overlap of the top {self.top_k}", GREEN)]
            for metric, label, shade in curves:
                add_curve(
                    figure, own[own["metric"] == metric], x="point", name=label, colour=shade, dash=dash,
                    legend=label != name or metric == "entropy", column=_COLUMNS[metric],
                )  # fmt: skip
        figure.update_yaxes(rangemode="tozero")
        return styled(
            figure, title=f"{self.title}: {', '.join(summary['model'].unique())}",
            subtitle=f"{self.source}; protocol {self.protocol}; {TEXT_BAND}",
            x="residual before layer", y="", counts=int(summary["point"].max()),
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for lens, rows in summary.groupby("lens", sort=False):
            entropy = rows[rows["metric"] == "entropy"].sort_values("point")["mean"].to_numpy()
            falling = entropy[entropy.argmax() :]
            rise = falling[-1] - falling.min()
            end = f" after a rise by {rise:.2f}" if rise > 0.005 else ""
            top, last = int(entropy.argmax()), len(entropy) - 1
            way = [f"entropy {entropy[0]:.2f} bits at the embedding" + (", its highest" if top == 0 else "")]
            way += [] if top in (0, last) else [f"highest {entropy[top]:.2f} before layer {top}"]
            way += [f"{entropy[last]:.2f} at the end" + (", its highest" if top == last else end)]
            parts.append(f"{_STYLES[str(lens)][0]}: {', '.join(way)}")
        return "; ".join(parts) + "." + _gain(summary)


def _gain(summary: pd.DataFrame) -> str:
    """By how much the tuned lens is nearer to the final prediction, where there is one."""
    kl = summary[summary["metric"] == "kl"].set_index(["lens", "point"])["mean"]
    if not {"corrected", "tuned"} <= set(summary["lens"]):
        return ""
    plain, tuned = kl["corrected"].iloc[:-1], kl["tuned"].iloc[:-1]
    return (
        f" The tuned lens takes KL(final ‖ lens) from {plain.mean():.2f} to {tuned.mean():.2f} nats on average; it is "
        f"lower at {int((tuned < plain).sum())} of {len(plain)} points before the last."
    )
