"""The logit lens (section 5.2, Fig. 8 and 19): how a prediction forms from layer to layer.

Each residual is decoded as if it were the last. The paper shows the entropy of that prediction and its KL to the final
one: little progress in the first half, then a steady decline; in some models entropy rises again at the very end.

The authors' curves come from a faulty lens: their library divided every residual by the *last* layer's norm, and left
out the unembedding's bias. Early residuals are short, so their logits nearly vanish and entropy starts near
log2(d_vocab) bits. `protocol="paper"` reproduces the notebook's curves: positions 1 to T - 2, probabilities clipped to
at least 1e-9, equal weight for every document, bands of their standard deviation. `"corrected"` normalises each
residual by its own norm and keeps the bias, so that the last point is the model's own prediction; `authors_lens` draws
the authors' lens next to it (for a model whose norm does not centre, that lens applies no norm, and only
`protocol="paper"` has it). The direction of the paper's KL is not published: ours is KL(final || lens); the other
direction and the Jensen-Shannon divergence are in the table.

A tuned lens (Belrose et al. 2023) can be added: an affine map of each residual, learned on other text, removes
differences of basis. The remaining KL is what the residual does not yet contain about the prediction.

Random weights have such curves, too: with a tied unembedding, the lens predicts the current token with near certainty
at the embedding, and each layer reduces that certainty. The claims are therefore tested against untrained twins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, ORANGE, VERMILION
from mechicl.hooks import run
from mechicl.metrics.readout import kept_bytes
from mechicl.models import Adapter, hooked
from mechicl.probes.logit_lens import Lens, LogitLens
from mechicl.probes.tuned_lens import TunedLens
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.stages.sequences import authors_summary, weighted_summary
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import TWINS, AgainstTwins, against_twins, by_layer, given

_SOURCE = "Stages of Inference, section 5.2, Fig. 8 and 19"
LATE = Claim(
    "lens-late", "The prediction forms in the second half of the layers.", _SOURCE,
    "fall of KL(final ‖ lens) in the second half, minus that in the first, layer 0 left out", "of KL after layer 0",
    TWINS, 0.1,
)  # fmt: skip
TURNS_UP = Claim(
    "entropy-turns-up", "Entropy rises in the last layers.", _SOURCE,
    "entropy of the prediction, minus that of the lens a tenth of the layers before", "bits", TWINS, 0.1,
    "in some models",
)  # fmt: skip
_AUTHORS_BAND = "band: standard deviation over documents, as the authors draw it"
_LEAST = 0.01
"""Smallest KL drawn, in nats, because a log axis has no 0."""
_STYLES: dict[str, tuple[str, str, str]] = {
    "corrected": ("corrected lens", BLUE, "solid"),
    "authors": ("authors' lens", GREY, "dot"),
    "tuned": ("tuned lens", ORANGE, "dash"),
}


@dataclass(frozen=True)
class LensStudy(AgainstTwins):
    """Measures of the lens at L + 1 points of every sequence; of untrained twins, entropy and KL alone."""

    top_k: Annotated[int, Switch("k of the top-k overlap.", min=1)] = 10
    authors_lens: Annotated[bool, Switch("Also draw the authors' faulty lens.")] = False
    tuned: Annotated[
        TunedLens | str | Path | None,
        Switch("A tuned lens to draw as well, or its folder; it must have been fitted to this model on other text."),
    ] = None
    """The tuned lens's digest, in a loaded result."""

    name = "logit-lens"
    title = "Logit lens"
    shows = "The residual stream after each layer read as a prediction: corrected, authors' and tuned lens."
    source = "Stages of Inference, section 5.2, Fig. 8 and 19"
    claim = (
        "In the first half the prediction hardly approaches its final form; then its distance to the final prediction "
        "and its entropy fall, and in some models entropy rises again in the last layers."
    )
    claims = (LATE, TURNS_UP)
    reads = "text"
    batch_size = 8
    shared_options = {"processing": "fold"}
    may_lack = ("loss",)  # undefined for a sequence of two tokens

    def for_model(self, model: Any) -> LensStudy:
        """Replace a folder by the lens saved in it.

        Raises:
            InputError: the authors' lens is requested next to the corrected one, but the model's norm does not centre.
        """
        if self.authors_lens and self.protocol == "corrected" and not hooked(model).sizes.centred:
            raise InputError(
                f"The authors' lens applies no norm at all to {hooked(model).name}, whose norm does not centre; leave "
                "authors_lens out, or run the protocol 'paper'."
            )
        return self if isinstance(self.tuned, TunedLens | None) else replace(self, tuned=TunedLens.load(self.tuned))

    def settings(self) -> dict[str, Any]:
        tuned = self.tuned.digest if isinstance(self.tuned, TunedLens) else self.tuned and str(self.tuned)
        return {
            "protocol": self.protocol, "top_k": self.top_k, "authors_lens": self.authors_lens, "tuned": tuned,
            "untrained": self.untrained,
        }  # fmt: skip

    def lenses(self) -> tuple[Lens | TunedLens, ...]:
        """The lenses of the protocol, and the tuned one."""
        if isinstance(self.tuned, str | Path):
            raise InputError("The result keeps only the digest of the tuned lens; load the lens with TunedLens.load.")
        beside: tuple[Lens, ...] = ("authors",) if self.authors_lens else ()
        plain = ("authors",) if self.protocol == "paper" else ("corrected", *beside)
        return plain if self.tuned is None else (*plain, self.tuned)

    def passes(self, n_layers: int) -> float:
        return 1 + (n_layers + 1) * len(self.lenses())  # decoding and ranking take as long as the blocks

    def held_bytes(self, net: Adapter, tokens: int) -> int:
        """Residuals of every point, before and after sorting by position, and tiles of the vocabulary."""
        n_points = net.sizes.n_layers + 1
        residuals = 2 * tokens * n_points * net.sizes.d_model * net.dtype.itemsize * len(self.lenses())
        return residuals + kept_bytes(1 + n_points, net.sizes.d_vocab, net.device)

    def of_twin(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        probe = LogitLens("corrected", only=("entropy", "kl"))
        return run(model, corpus, [probe], batch_size=batch_size)[probe].frame().assign(lens="corrected")

    def read(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        if isinstance(self.tuned, TunedLens):
            self.tuned.check_apart(corpus)
        probes = [LogitLens(lens, self.top_k, last=self.protocol == "corrected") for lens in self.lenses()]
        readings = run(model, corpus, probes, batch_size=batch_size)
        tables = [readings[probe].frame().assign(lens=probe.name) for probe in probes]
        return pd.concat(tables, ignore_index=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        rows = where(table, lens="corrected")
        if rows.empty:
            return Evidence.nothing("The authors' lens is faulty; run the protocol 'corrected'.")
        n_layers = int(rows["point"].max())
        before = n_layers - max(1, n_layers // 10)
        if n_layers < 3:
            return Evidence.nothing("This claim needs a model of three layers or more.")

        def contrast(rows: pd.DataFrame) -> pd.Series:
            if claim is TURNS_UP:
                entropy = by_layer(rows, "entropy", "point")
                return entropy[n_layers] - entropy[before]
            kl = by_layer(rows, "kl", "point")
            halfway = (kl[(n_layers + 1) // 2] + kl[n_layers // 2 + 1]) / 2  # one point, or the mean of the middle two
            # From point 1 on, because at the embedding a tied unembedding is sure of the wrong token.
            return (2 * halfway - kl[1] - kl[n_layers]) / kl[1].clip(lower=1e-12)

        return against_twins(contrast, rows)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means per point: model, lens, metric, point, mean, low, high, n (sequences), seeds; `loss` in nats."""
        weights: dict[str, str] = LogitLens().terms
        if self.protocol == "paper":
            metrics = [name for name in weights if name != "loss"]
            return authors_summary(given(table), metrics, ["model", "lens"], "point")
        return weighted_summary(given(table), weights, ["model", "lens"], "point")

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        lenses = [lens for lens in _STYLES if lens in set(summary["lens"])]

        def curves(metric: str) -> list[Curve]:
            return [Curve(metric, *_STYLES[lens], where={"lens": lens}) for lens in lenses]

        of_kl, of_rank = curves("kl"), curves("reciprocal_rank")
        if "corrected" in lenses:
            corrected = {"lens": "corrected"}
            of_kl.append(Curve("kl_reverse", "KL(lens ‖ final)", VERMILION, where=corrected))
            of_rank.append(Curve("top_k_overlap", f"overlap of the top {self.top_k}", GREEN, where=corrected))
        bounds = summary.loc[summary["metric"].isin(("kl", "kl_reverse")), ["mean", "low", "high"]]
        summary.loc[bounds.index, bounds.columns] = bounds.clip(lower=_LEAST)
        panels = [
            Panel("entropy (bits)", curves("entropy")),
            # The authors' lens is hundreds of nats away from the model, where the corrected one is ten.
            Panel("KL(final ‖ lens) (nats)", of_kl, {}, {"type": "log", "title_text": f"log; least {_LEAST:g}"}),
            Panel("1 / rank of the final token", of_rank),
        ]
        return Drawing(
            summary, panels, x="point", x_title="residual before layer", y_axis={"rangemode": "tozero"},
            note=_AUTHORS_BAND if self.protocol == "paper" else TEXT_BAND,
        )  # fmt: skip

    def details(self, result: Result) -> list[str]:
        details = super().details(result)
        kl = where(result.summary(), metric="kl")
        if not {"corrected", "tuned"} <= set(kl["lens"]):
            return details
        plain, tuned = (where(kl, lens=lens)["mean"].iloc[:-1].mean() for lens in ("corrected", "tuned"))
        return [*details, f"The tuned lens takes KL(final ‖ lens) from {plain:.2f} to {tuned:.2f} nats on average."]
