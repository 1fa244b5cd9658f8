"""One colour per thing everywhere, distinguishable with every kind of colour vision (Okabe and Ito)."""

from __future__ import annotations

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#7A7A80",
)  # fmt: skip
INK = "#222222"
"""The palette's black, which a page in dark colours shows light."""

TEXT_COLOUR, LABEL_COLOUR, TARGET_COLOUR = BLUE, VERMILION, GREEN
"""Colours of the three roles of a token: demonstration text w, label word p, target position q."""

FLOW_COLOURS = {"S_wp": LABEL_COLOUR, "S_pq": TARGET_COLOUR, "S_ww": GREY}
"""A flow has the colour of the tokens that it reaches; the rest is grey."""

STAGE_COLOURS = {
    "detokenization": BLUE, "feature engineering": ORANGE, "prediction ensembling": GREEN, "calibration": PURPLE,
}  # fmt: skip
"""The four stages of inference; signatures of a stage have its colour."""


def faint(colour: str, opacity: float = 0.18) -> str:
    """A colour of the palette, transparent: for bands."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
