"""The claims of *Stages of Inference* about ablated layers, and the contrasts between layers that decide them.

All contrasts are tested against untrained twins. Middle layers are the middle half, without the first and the last
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.studies.summary import extreme_in_words
from mechicl.studies.twins import TWINS, against_twins, by_document, by_layer, given

_SOURCE = "Stages of Inference, section 4.1, Fig. 2 and 3"
ROBUST = Claim(
    "robust-middle", "Dropping a middle layer changes fewer predictions than dropping layer 0.", _SOURCE,
    "top-1 agreement with a middle layer dropped, minus that with layer 0 dropped", "of predictions", TWINS, 0.1,
    "72-95 % of top-1 predictions are unchanged when a layer is dropped or swapped",
)  # fmt: skip
FIRST = Claim(
    "first-layer-entropy", "Dropping layer 0 makes predictions of higher entropy than dropping a middle layer.",
    _SOURCE,
    "entropy with layer 0 dropped, minus that with a middle layer dropped", "bits", TWINS, 1.0,
)  # fmt: skip
SWAP = Claim(
    "swap-less-than-drop", "Swapping a middle layer with the next hurts less than dropping it.", _SOURCE,
    "KL with a middle layer dropped, minus that with it swapped, median over these layers", "nats", TWINS, 0.02,
)  # fmt: skip
FINAL = Claim(
    "final-swap", "Swapping the last two layers changes more predictions than swapping middle layers.", _SOURCE,
    "top-1 agreement with middle layers swapped, minus that with the last two swapped", "of predictions", TWINS, 0.1,
)  # fmt: skip
REPEATS = Claim(
    "late-repeats", "Repeating windows of layers in the latter half lowers the entropy of predictions.",
    "Stages of Inference, section 5.4, Fig. 11 and 22", "clean entropy minus that with a late window repeated", "bits",
    TWINS, 0.05,
)  # fmt: skip
CLAIMS = (ROBUST, FIRST, SWAP, FINAL, REPEATS)


def lesion_evidence(claim: Claim, table: pd.DataFrame) -> Evidence:
    """The contrast of a claim, from rows with `entropy_difference`; undecided if a kind was not measured."""
    kinds, contrast = _CONTRASTS[claim.id]
    n_layers = 1 + int(max(table["layer"] + table["kind"].map(length) - 1))
    measured = given(table)["kind"]
    missing = [kind for kind in kinds if not ((measured == kind) | measured.str.startswith(f"{kind} ")).any()]
    if missing:
        return Evidence.nothing(f"Not measured: this claim needs {' and '.join(missing)} among the kinds of ablation.")
    if n_layers < (least := 4 if claim in (FINAL, SWAP) else 3):  # a middle swap that does not move the last layer
        return Evidence.nothing(f"This claim needs a model of {least} layers or more.")
    if claim == REPEATS and _late(given(table), n_layers).empty:
        return Evidence.nothing("No repeated window begins in the latter half; repeat shorter ones (windows).")
    told = _NOTES.get(claim.id)
    note = told(given(table), n_layers) if told else ""
    return against_twins(lambda rows: contrast(rows, n_layers), table, note=note)


def length(kind: str) -> int:
    """Number of layers that an ablation spans."""
    return int(kind.split()[1]) if kind.startswith("repeat") else 2 if kind in ("swap", "replace") else 1


def middle(n_layers: int) -> range:
    """The middle half of the layers, without the first and the last."""
    return range(max(1, n_layers // 4), max(2, min(n_layers - 1, n_layers - n_layers // 4)))


def _curves(rows: pd.DataFrame, kind: str, value: str) -> pd.DataFrame:
    return by_layer(rows[rows["kind"] == kind], value)


def _in_middle(curves: pd.DataFrame, n_layers: int) -> pd.Series:
    return curves[[layer for layer in middle(n_layers) if layer in curves]].mean(axis=1)


def _robust(rows: pd.DataFrame, n_layers: int) -> pd.Series:
    curves = _curves(rows, "drop", "agreement")
    return _in_middle(curves, n_layers) - curves[0]


def _first(rows: pd.DataFrame, n_layers: int) -> pd.Series:
    curves = _curves(rows, "drop", "entropy")
    return curves[0] - _in_middle(curves, n_layers)


def _swap(rows: pd.DataFrame, n_layers: int) -> pd.Series:
    return _saved_by_swaps(rows, n_layers).median(axis=1)  # one layer that makes a sink must not decide


def _saved_by_swaps(rows: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """Per sequence and middle layer, what a swap costs less than a drop."""
    dropped, swapped = _curves(rows, "drop", "kl"), _curves(rows, "swap", "kl")
    return pd.DataFrame({i: dropped[i] - swapped[i] for i in middle(n_layers) if i < n_layers - 2})


def _final(rows: pd.DataFrame, n_layers: int) -> pd.Series:
    curves = _curves(rows, "swap", "agreement")
    return _in_middle(curves.drop(columns=n_layers - 2), n_layers) - curves[n_layers - 2]


def _late(rows: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    return rows[rows["kind"].str.startswith("repeat") & (rows["layer"] >= n_layers / 2)]


def _repeats(rows: pd.DataFrame, n_layers: int) -> pd.Series:
    return -by_layer(_late(rows, n_layers), "entropy_difference").mean(axis=1)


_LEAST_TOLD = 0.05
"""Smallest KL, in nats, of a layer dropped at position 0 that is told."""
_CONTRASTS: Mapping[str, tuple[tuple[str, ...], Callable[[pd.DataFrame, int], pd.Series]]] = {
    ROBUST.id: (("drop",), _robust), FIRST.id: (("drop",), _first), SWAP.id: (("drop", "swap"), _swap),
    FINAL.id: (("swap",), _final), REPEATS.id: (("repeat",), _repeats),
}  # fmt: skip
CLAIMED = frozenset(kind for kinds, _ in _CONTRASTS.values() for kind in kinds)
"""The kinds of ablation that a claim rests on."""


def _told(rows: pd.DataFrame, n_layers: int, kind: str) -> str:
    """Agreement for the first, middle and last layers under one kind of ablation, and where the middle is lowest."""
    curves = by_document(_curves(rows, kind, "agreement").dropna())
    mean = curves.mean()
    moves_last = n_layers - 2 if kind == "swap" else n_layers - 1
    layers = [layer for layer in middle(n_layers) if layer in curves and layer < moves_last]
    of_middle = curves[layers]
    lowest = extreme_in_words(of_middle.to_numpy(), layers, lowest=True, spec=".0%")
    ends = " and ".join(f"{mean[layer]:.0%} (layer {layer})" for layer in mean.index[-2:])
    return (
        f"{mean.iloc[0]:.0%} (layer 0), {of_middle.to_numpy().mean():.0%} (mean of the middle half; lowest: {lowest}), "
        f"{ends}."
    )


def _told_agreement(rows: pd.DataFrame, n_layers: int) -> str:
    apart = [kind for kind in ("drop", "drop, bos", "drop, rest") if (rows["kind"] == kind).any()]
    text = f"Top-1 agreement after dropping a layer: {_told(rows, n_layers, 'drop')}"
    if len(apart) < 3:
        return text
    kl = {kind: _curves(rows, kind, "kl").mean() for kind in apart}
    worst = max(range(1, n_layers), key=lambda layer: kl["drop, bos"][layer])
    if kl["drop, bos"][worst] < _LEAST_TOLD:
        return text
    of_mlp = ""
    if (rows["kind"] == "mlp, bos").any():
        of_mlp = f" ({_curves(rows, 'mlp, bos', 'kl').mean()[worst]:.3g} its MLP there alone)"
    return text + (
        f" Of the layers after layer 0, position 0 matters most in layer {worst}: KL {kl['drop, bos'][worst]:.3g} nats "
        f"dropped there alone{of_mlp}, {kl['drop, rest'][worst]:.3g} everywhere else, {kl['drop'][worst]:.3g} at all "
        "positions."
    )


def _told_swaps(rows: pd.DataFrame, n_layers: int) -> str:
    return f"Top-1 agreement after swapping a layer with the next: {_told(rows, n_layers, 'swap')}"


def _told_saved(rows: pd.DataFrame, n_layers: int) -> str:
    saved = by_document(_saved_by_swaps(rows, n_layers).dropna())
    layers = [int(layer) for layer in saved.columns]
    most, least = (extreme_in_words(saved.to_numpy(), layers, lowest=lowest, spec=".3g") for lowest in (False, True))
    cheaper = int((saved.mean() > 0).sum())
    ends = f"; most {most}, least {least}" if len(layers) > 1 else ""
    return (
        f"A swap costs less than a drop in {cheaper} of {len(layers)} middle layers (KL, mean "
        f"{saved.to_numpy().mean():.3g} nats{ends})."
    )


def _told_entropy(rows: pd.DataFrame, n_layers: int) -> str:
    entropy = by_document(_curves(rows, "drop", "entropy").dropna())
    clean = by_document(_curves(rows, "drop", "base_entropy"))[0].mean()
    later = entropy.drop(columns=0)
    highest = extreme_in_words(later.to_numpy(), [int(layer) for layer in later.columns], spec=".3g")
    return (
        f"Mean entropy is {clean:.3g} bits, {entropy[0].mean():.3g} with layer 0 dropped, and of the other layers "
        f"highest {highest}."
    )


def _told_windows(rows: pd.DataFrame, n_layers: int) -> str:
    windows = _late(rows, n_layers).groupby(["kind", "layer"])["entropy_difference"].mean()
    counts = [f"{(one < 0).sum()} of {len(one)} windows ({kind})" for kind, one in windows.groupby("kind")]
    return f"The mean entropy is lower with {' and '.join(counts)}."


_NOTES: Mapping[str, Callable[[pd.DataFrame, int], str]] = {
    ROBUST.id: _told_agreement, FIRST.id: _told_entropy, SWAP.id: _told_saved, FINAL.id: _told_swaps,
    REPEATS.id: _told_windows,
}  # fmt: skip
