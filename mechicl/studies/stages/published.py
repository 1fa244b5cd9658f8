"""What the paper and the authors' notebooks report, to be held against what was measured.

Notebook values are read off their figures (attention to about 0.002, entropy 0.05 bits, counts one neuron). The
notebooks ran on other text than ours, so only neuron counts, which need no text, should agree exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mechicl.results import Result

_ATTENTION = {
    "gpt2": (.040, .046, .102, .083, .068, .037, .042, .031, .033, .023, .020, .021),
    "gpt2-medium": (.025, .029, .086, .106, .079, .060, .036, .033, .043, .030, .037, .033, .028, .037, .028, .029,
                    .026, .025, .022, .015, .014, .017, .014, .022),
    "pythia-410m-deduped": (.054, .065, .047, .066, .055, .087, .030, .030, .032, .031, .029, .025, .029, .025, .023,
                            .032, .018, .019, .014, .017, .018, .019, .033, .051),
}  # fmt: skip
_ENTROPY = {"gpt2": (15.60, 15.46, 15.43, 15.36, 15.30, 15.23, 15.09, 14.86, 14.46, 13.65, 11.9, 9.22, 7.18)}
_PREDICTION = {"gpt2": (0, 0, 0, 1, 1, 2, 0, 2, 14, 57, 97, 52)}
_SUPPRESSION = {"gpt2": (0, 0, 0, 0, 0, 0, 0, 0, 3, 7, 32, 94)}


def against_published(results: Sequence[Result]) -> pd.DataFrame:
    """Published beside measured: quantity, place (layer or lens point), published, measured.

    `results` are those of the studies of this paper, in the authors' protocol where there is one.
    """
    rows: list[dict[str, object]] = []
    for result in results:
        summary = result.summary()
        model = str(summary["model"].iloc[0])
        if result.name == "local-attention":
            rows += _curve("mean attention to one of the previous five tokens", summary, model, _ATTENTION, "pooled")
        elif result.name == "logit-lens":
            authors = summary[summary["lens"] == "authors"]
            rows += _curve("entropy of the authors' lens (bits)", authors, model, _ENTROPY, "entropy", x="point")
        elif result.name == "neurons":
            for kind, published in (("prediction", _PREDICTION), ("suppression", _SUPPRESSION)):
                rows += _curve(f"{kind} neurons", summary, model, published, kind, value="count")
        elif result.name == "layer-lesions":
            rows += _agreement(summary, model)
    return pd.DataFrame(rows, columns=["quantity", "place", "published", "measured"])


def _curve(
    quantity: str,
    summary: pd.DataFrame,
    model: str,
    published: Mapping[str, Sequence[float]],
    metric: str,
    *,
    x: str = "layer",
    value: str = "mean",
) -> list[dict[str, object]]:
    measured = summary[summary["metric"] == metric].sort_values(x)[value].tolist()
    expected = published.get(model, ())
    if len(expected) != len(measured):
        return []
    return [
        {"quantity": quantity, "place": f"{x} {place}", "published": f"{old:g}", "measured": f"{new:.3f}"}
        for place, (old, new) in enumerate(zip(expected, measured, strict=True))
    ]


def _agreement(summary: pd.DataFrame, model: str) -> list[dict[str, object]]:
    """Top-1 agreement over the middle half of the layers; for Pythia-410m an independent replication has 0.76."""
    rows: list[dict[str, object]] = []
    for kind in ("drop", "swap"):
        same = summary[(summary["metric"] == "agreement") & (summary["kind"] == kind)]
        if len(same):
            n = int(same["layer"].max()) + 1
            middle = same[same["layer"].between(n // 4, n - 1 - n // 4)]["mean"].mean()
            published = "0.72-0.95 (the paper's abstract)"
            if (kind, model) == ("drop", "pythia-410m-deduped"):
                published += "; 0.759-0.764 (a replication)"
            quantity = f"same most probable token, {kind}"
            rows.append(
                {"quantity": quantity, "place": "middle half", "published": published, "measured": f"{middle:.3f}"}
            )
    return rows
