"""What the paper and the authors' notebooks report, to be held against what was measured.

Notebook values are read off their figures (attention to about 0.002, entropy 0.05 bits, counts one neuron). The
notebooks ran on other text than ours, so only neuron counts, which need no text, should agree exactly. Values marked as
a replication are from others' runs on WikiText-2. Many claims of the paper have no number; where they name a place (a
depth), the measured place stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from mechicl.results import Result
from mechicl.studies.stages.repeats import late_windows

Rows = list[dict[str, object]]

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


_REPLICATED = {
    "pythia-410m-deduped": ("0.759-0.764", "0.589-0.600"),
    "pythia-160m": ("0.568", None),
    "pythia-70m": ("0.274", None),
}
"""Agreement under drops in the middle half, and in the first and last eighth, of the layers."""
_STANFORD_MEDIUM = {20: "130.8", 21: "142.2", 22: "207.2", 23: "339.2"}
"""Neurons of kurtosis above 10 in the last layers of stanford-gpt2-medium, mean of five seeds (Universal Neurons)."""


def against_published(results: Sequence[Result]) -> pd.DataFrame:
    """Published beside measured: quantity, place (layer, lens point, depth), published, measured.

    `results` are those of the studies of this paper, in both protocols where there are two: notebook values are held
    against the authors' protocol.
    """
    rows: Rows = []
    for result in results:
        followed = result.study.protocol == "paper" or not _has_paper(results, result.name)
        for name, authors, compare in _QUANTITIES:
            if name == result.name and (followed or not authors):
                rows += compare(result)
    table = pd.DataFrame(rows, columns=["quantity", "place", "published", "measured"])
    return table.drop_duplicates(["quantity", "place"], ignore_index=True)


def _has_paper(results: Sequence[Result], name: str) -> bool:
    return any(one.name == name and one.study.protocol == "paper" for one in results)


def _row(quantity: str, place: str, published: str, measured: str) -> Rows:
    return [{"quantity": quantity, "place": place, "published": published, "measured": measured}]


def _model(result: Result) -> str:
    return str(result.table["model"].iloc[0])


def _peak(curve: pd.Series[float]) -> str:
    """Relative depth at which a curve, first layer first, is largest."""
    return f"{int(curve.to_numpy().argmax()) / max(1, len(curve) - 1):.2f}"


def _attention(result: Result) -> Rows:
    return _curve(
        "mean attention to one of the previous five tokens", result.summary(), _model(result), _ATTENTION, "pooled"
    )


def _authors_lens(result: Result) -> Rows:
    summary = result.summary()
    authors = summary[summary["lens"] == "authors"]
    return _curve("entropy of the authors' lens (bits)", authors, _model(result), _ENTROPY, "entropy", x="point")


def _corrected_lens(result: Result) -> Rows:
    summary = result.summary()
    own = summary[summary["lens"] == "corrected"].set_index(["metric", "point"])["mean"].sort_index()
    if _model(result) != "gpt2-xl" or not len(own):
        return []
    return [
        *_row("entropy of the corrected lens (bits)", "point 0", "0.5 (one prompt)", f"{own['entropy', 0]:.3f}"),
        *_row("entropy of the corrected lens (bits)", "largest", "3.5 (one prompt)", f"{own['entropy'].max():.3f}"),
        *_row("KL(final || corrected lens) (nats)", "point 0", "about 20", f"{own['kl', 0]:.3f}"),
    ]


def _neuron_counts(result: Result) -> Rows:
    summary, model = result.summary(), _model(result)
    rows: Rows = []
    for kind, published in (("prediction", _PREDICTION), ("suppression", _SUPPRESSION)):
        rows += _curve(f"{kind} neurons", summary, model, published, kind, value="count")
    if model.startswith("stanford-gpt2-medium"):
        heavy = summary[summary["metric"].isin(["prediction", "suppression"])].groupby("layer")["count"].sum()
        for layer, published_count in _STANFORD_MEDIUM.items():
            rows += _row("neurons of kurtosis above 10", f"layer {layer}", published_count, f"{heavy[layer]:.0f}")
    return rows


def _neuron_densities(result: Result) -> Rows:
    summary = result.summary()
    prediction, suppression = (
        summary[summary["metric"] == kind].set_index("layer")["mean"] for kind in ("prediction", "suppression")
    )
    if not prediction.max() > 0:
        return []
    rows = _row("prediction neurons are densest", "depth", "0.85", _peak(prediction))
    if _model(result).startswith("phi"):
        rows += _row("largest density, prediction", "all layers", "up to 0.15 (Phi)", f"{prediction.max():.3f}")
        rows += _row("largest density, suppression", "all layers", "up to 0.25 (Phi)", f"{suppression.max():.3f}")
    return rows


def _repeats(result: Result) -> Rows:
    """Windows in the latter half are said to lower entropy consistently."""
    return [
        row
        for found in late_windows(result.summary())
        for row in _row(
            f"{found.kind}: windows that lower entropy", "latter half", "all", f"{found.lower} of {found.n}"
        )
    ]


def _largest_norm(result: Result) -> Rows:
    summary = result.summary()
    norm = summary[summary["metric"].isin(["mlp", "mlp_norm"])].set_index("layer")["mean"]
    return _row("norm of the MLPs' output is largest", "depth", "in the last layers", _peak(norm))


def _best_probe(result: Result) -> Rows:
    summary = result.summary()
    probe = summary[summary["metric"] == "probe"].set_index("point")["mean"]
    return _row("word in context is told best", "depth", "in the middle", _peak(probe))


def _best_window(result: Result) -> Rows:
    summary = result.summary()
    own = summary[(summary["benchmark"] == "hellaswag") & (summary["metric"] == "acc_norm")]
    repeats = own[own["kind"].str.startswith("repeat")]
    if not len(repeats):
        return []
    n_layers = int(own[own["kind"] == "drop"]["layer"].max()) + 1
    best = repeats.sort_values("mean").iloc[-1]
    return _row("the best window to repeat begins", "depth", "0.8-0.9", f"{best['layer'] / max(1, n_layers - 1):.2f}")


def _seconds(published: str) -> Callable[[Result], Rows]:
    def compare(result: Result) -> Rows:
        seconds, text = result.provenance.get("seconds"), result.provenance.get("text", {})
        if seconds is None:
            return []
        measured = f"{seconds:.0f} s for {text.get('tokens', 0)} tokens (finished parts are read, not run)"
        return _row(f"time of {result.name}", "whole study", published, measured)

    return compare


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


def _agreement(result: Result) -> Rows:
    """Top-1 agreement over the middle half of the layers, and over the first and last eighth where it is published."""
    summary, model = result.summary(), _model(result)
    middle_published, edges_published = _REPLICATED.get(model, (None, None))
    rows: Rows = []
    for kind in ("drop", "swap"):
        same = summary[(summary["metric"] == "agreement") & (summary["kind"] == kind)].set_index("layer")["mean"]
        if not len(same):
            continue
        n = int(same.index.max()) + 1
        middle = same[(same.index >= n // 4) & (same.index <= n - 1 - n // 4)].mean()
        published = "0.72-0.95 (the paper's abstract)"
        if kind == "drop" and middle_published is not None:
            published += f"; {middle_published} (a replication)"
        rows += _row(f"same most probable token, {kind}", "middle half", published, f"{middle:.3f}")
        if kind == "drop" and edges_published is not None:
            edge = max(1, round(n / 8))
            edges = same[(same.index < edge) | (same.index >= n - edge)].mean()
            rows += _row(
                f"same most probable token, {kind}", "first and last eighth", f"{edges_published} (a replication)",
                f"{edges:.3f}",
            )  # fmt: skip
    return rows


_QUANTITIES: tuple[tuple[str, bool, Callable[[Result], Rows]], ...] = (
    ("local-attention", True, _attention),
    ("local-attention", True, _seconds("8-33 s for 100 documents (GPT-2 family, one GPU)")),
    ("logit-lens", True, _authors_lens),
    ("logit-lens", False, _corrected_lens),
    ("neurons", False, _neuron_counts),
    ("neurons", False, _neuron_densities),
    ("layer-lesions", True, _agreement),
    ("layer-lesions", False, _repeats),
    ("layer-lesions", True, _seconds("8 h for 1M tokens and one kind of lesion (two A6000)")),
    ("norms", False, _largest_norm),
    ("wic", False, _best_probe),
    ("benchmarks", False, _best_window),
)
"""Study, whether the authors' protocol is what the values belong to, and the comparison."""
