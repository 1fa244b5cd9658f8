"""The panels of `isolation`: curves over the number of isolated layers, or bars if there is only one number."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import BLUE, GREEN, GREY, INK, LABEL_COLOUR, ORANGE, PURPLE, SKY, error_bars
from mechicl.studies.drawing import Curve, Panel, bars, marks, where
from mechicl.studies.label_words.isolation_modes import IN_WORDS
from mechicl.studies.label_words.predictions import TITLES

LABELS, RANDOM, EDGES = "label words", "random tokens", "random edges"
Arms = Mapping[str, tuple[str, str]]
"""Names in the table of the isolated tokens, or edges."""
_STYLES = {(LABELS, "first"): (LABEL_COLOUR, "solid"), (LABELS, "last"): (LABEL_COLOUR, "dot"),
           (RANDOM, "first"): (GREY, "solid"), (RANDOM, "last"): (GREY, "dot")}  # fmt: skip
_FURTHER = (GREY, ORANGE, PURPLE, GREEN, SKY, BLUE)
"""Colours of further modes."""
_LEVELS = {"label_mass": "clean run"}
"""What a panel's level shows, if not a constant answer."""
_CONSTANT = "constant answer"


def by_number(metric: str, means: pd.DataFrame, floor: float, arms: Arms, claimed: int) -> Panel:
    """Curves over the number of isolated layers; marks show label words isolated in further modes."""
    numbers = means.loc[means["n_layers"] > 0, "n_layers"]
    level = go.Scatter(
        x=[numbers.min(), numbers.max() + 0.5], y=[floor] * 2, mode="lines", name=_LEVELS.get(metric, _CONSTANT),
        line={"color": INK, "dash": "solid" if metric in _LEVELS else "dash", "width": 1.5},
    )  # fmt: skip
    curves = [
        Curve(metric, f"{isolated}, {end} layers", colour, dash, {"isolated": isolated, "where": end})
        for (isolated, end), (colour, dash) in _STYLES.items()
    ]
    further = [arm for arm, (tokens, _) in arms.items() if arm not in (LABELS, RANDOM) and tokens != RANDOM]
    points = [
        go.Scatter(
            x=rows["n_layers"] + 0.12 * (number + 1), y=rows["mean"], error_y=error_bars(rows), mode="markers",
            name=f"{_in_words(arm, arms)}, first layers", marker={"color": colour, "symbol": "diamond", "size": 9},
        )
        for number, (arm, colour) in enumerate(zip(further, _FURTHER, strict=False))
        if len(rows := where(means, metric=metric, isolated=arm, where="first", n_layers=claimed))
    ]  # fmt: skip
    return Panel(TITLES[metric], [*curves, *points, level], {}, {"range": [0, 1.02]})


def at_one_number(metric: str, means: pd.DataFrame, floor: float, arms: Arms, n_layers: int) -> Panel:
    """Bars for a single number of isolated layers."""
    rows = where(means, metric=metric).set_index(["isolated", "where"])
    styles = _STYLES | {
        (arm, "first"): (LABEL_COLOUR if tokens == LABELS else GREY, "solid")
        for arm, (tokens, _) in arms.items() if (arm, "first") in rows.index
    }  # fmt: skip
    rows = rows.loc[list(styles)[::-1]]
    names = [f"{_in_words(isolated, arms)}, {end} {n_layers}" for isolated, end in rows.index]
    colours, dashes = zip(*(styles[place] for place in rows.index), strict=True)
    patterns = ["/" if dash == "dot" else "" for dash in dashes]
    symbol = "diamond-open" if metric in _LEVELS else "line-ns-open"
    level = marks(names, [floor] * len(names), symbol, _LEVELS.get(metric, _CONSTANT))
    content = [bars(rows, names, colours, marker_pattern_shape=patterns), level]
    return Panel(TITLES[metric], content, {"range": [0, 1.02]})


def _in_words(arm: str, arms: Arms) -> str:
    """An arm's name in the legend."""
    tokens, mode = arms[arm]
    return tokens if tokens == arm else f"{tokens}, {IN_WORDS[mode]}"
