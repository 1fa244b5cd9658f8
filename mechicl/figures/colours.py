"""One colour per thing everywhere, distinguishable with every kind of colour vision (Okabe and Ito)."""

from __future__ import annotations

import numpy as np

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#7A7A80",
)  # fmt: skip
INK = "#222222"
"""The palette's black, which a page in dark colours shows light."""

TEXT_COLOUR, LABEL_COLOUR, TARGET_COLOUR = BLUE, VERMILION, GREEN
"""Colours of the three roles of a token: demonstration text w, label word p, target position q."""

SOFT = "#6E6E6E"
"""Text without a role."""
TEXT_ON_DARK = {TEXT_COLOUR: SKY, SOFT: "#A9A9B0"}
"""Colours of text that a dark page shows lighter."""

FLOW_COLOURS = {"S_wp": LABEL_COLOUR, "S_pq": TARGET_COLOUR, "S_ww": GREY}
"""A flow has the colour of the tokens that it reaches; the rest is grey."""

STAGE_COLOURS = {
    "detokenization": BLUE, "feature engineering": ORANGE, "prediction ensembling": GREEN, "calibration": PURPLE,
}  # fmt: skip
"""The four stages of inference; signatures of a stage have its colour."""


def shades(n: int) -> list[str]:
    """Colours of n things in order, from blue through purple and vermilion to orange."""
    stops = np.array([_channels(colour) for colour in (BLUE, PURPLE, VERMILION, ORANGE)])
    places = np.linspace(0, len(stops) - 1, n)
    mixed = np.stack([np.interp(places, range(len(stops)), channel) for channel in stops.T], axis=1)
    return ["#" + "".join(f"{round(channel):02X}" for channel in colour) for colour in mixed]


def faint(colour: str, opacity: float = 0.18) -> str:
    """A colour of the palette, transparent: for bands."""
    red, green, blue = _channels(colour)
    return f"rgba({red},{green},{blue},{opacity})"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
