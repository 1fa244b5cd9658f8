"""The plotly style of all figures: one colour per thing everywhere, a band for every mean, exact values on hover."""

from mechicl.figures.arrange import NARROW, NOTEBOOK, PAGE_WIDTHS, WIDE, arrange
from mechicl.figures.axes import bounded, coordinates, without_outliers
from mechicl.figures.colours import (
    BLUE,
    FLOW_COLOURS,
    GREEN,
    GREY,
    INK,
    LABEL_COLOUR,
    ORANGE,
    PURPLE,
    SKY,
    SOFT,
    STAGE_COLOURS,
    TARGET_COLOUR,
    TEXT_COLOUR,
    TEXT_ON_DARK,
    VERMILION,
    faint,
    shades,
)
from mechicl.figures.curves import add_curve, band, curve_traces, error_bars, panels
from mechicl.figures.style import DARK, LIGHT, for_page, styled
from mechicl.figures.text import plain, shortened

__all__ = [
    "BLUE", "DARK", "FLOW_COLOURS", "GREEN", "GREY", "INK", "LABEL_COLOUR", "LIGHT", "NARROW", "NOTEBOOK", "ORANGE",
    "PAGE_WIDTHS", "PURPLE", "SKY", "SOFT", "STAGE_COLOURS", "TARGET_COLOUR", "TEXT_COLOUR", "TEXT_ON_DARK",
    "VERMILION", "WIDE", "add_curve", "arrange", "band", "bounded", "coordinates", "curve_traces", "error_bars",
    "faint", "for_page", "panels", "plain", "shades", "shortened", "styled", "without_outliers",
]  # fmt: skip
