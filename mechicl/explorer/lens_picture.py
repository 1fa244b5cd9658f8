"""The logit lens of one prompt, layer by position: the guess there, and the probability of the final prediction.

There are two pictures: a table for a card, in which every guess is legible, and a figure for a paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import LABEL_COLOUR, TARGET_COLOUR, TEXT_COLOUR, faint, plain
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text, visible
from mechicl.readings import Reading
from mechicl.studies.drawing import Drawing, Panel, draw
from mechicl.studies.label_words.saliency_map import map_height

_ROLE_COLOURS = {"p": LABEL_COLOUR, "q": TARGET_COLOUR}
_LEGIBLE, _LONGEST = 12, 9
"""Most layers for which a figure's cells have room for a token, and characters of a token that a cell shows."""
_DARKEST = 0.6
"""Opacity of a cell of probability 1, at which text is legible in light and dark themes."""


def lens_table(model: Any, reading: Reading, entries: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per position and layer of the first prompt: position, token, role, layer, guess, probability, kl."""
    tokenizer = hooked(model).tokenizer

    table = reading.frame()
    table = table[(table["prompt"] == 0) & (table["point"] > 0)].sort_values(["position", "point"], ignore_index=True)
    text, role = ([entries[place][what] for place in table["position"]] for what in ("text", "role"))
    return pd.DataFrame({
        "position": table["position"], "token": text, "role": role, "layer": table["point"] - 1,
        "guess": [token_text(tokenizer, int(token)) for token in table["token"]],
        "probability": table["probability"].astype(float), "kl": table["kl"].astype(float),
    })  # fmt: skip


def lens_figure(lens: pd.DataFrame, *, title: str) -> go.Figure:
    """The table as a heat map: a row per token, a column per layer; cells hold guesses if they fit."""
    tokens = lens.drop_duplicates("position")
    shape = (len(tokens), lens["layer"].nunique())
    guesses = [visible(guess) for guess in lens["guess"]]
    heat = go.Heatmap(
        z=lens["probability"].to_numpy().reshape(shape), zmin=0, zmax=1, colorscale="Blues",
        text=np.array([plain(guess[:_LONGEST]) for guess in guesses]).reshape(shape),
        texttemplate="%{text}" if shape[1] <= _LEGIBLE else None, textfont={"size": 10},
        customdata=np.dstack([np.array([plain(guess) for guess in guesses]).reshape(shape),
                              lens["kl"].to_numpy().reshape(shape).round(3)]),
        colorbar={"title": {"text": "probability of the final prediction", "side": "right"}},
        hovertemplate="layer %{x}: %{customdata[0]}<br>probability of the final prediction %{z:.3f}"
        "<br>KL(final || lens) %{customdata[1]} nats<extra></extra>",
    )  # fmt: skip
    names = [
        f'<span style="color:{_ROLE_COLOURS[role]}">{plain(visible(text))}</span>' if role in _ROLE_COLOURS
        else plain(visible(text)) for text, role in zip(tokens["token"], tokens["role"], strict=True)
    ]  # fmt: skip
    y_axis = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names, "autorange": "reversed",
              "tickfont": {"size": 9}, "title_text": "token"}  # fmt: skip
    panel = Panel("logit lens after each layer", [heat], {"dtick": 1, "title_text": "layer"}, y_axis)
    drawing = Drawing(pd.DataFrame(), [panel], x="", height=map_height(len(names)), hover="closest")
    legend = {"p": "red: label words", "q": "green: target"}
    return draw(
        drawing, title=title, subtitle="; ".join(legend[role] for role in legend if role in set(tokens["role"]))
    )


def lens_html(lens: pd.DataFrame) -> str:
    """The table as HTML that scrolls sideways under its row of layers; the column of tokens is fixed."""
    layers = "".join(f'<th scope="col">{layer}</th>' for layer in lens["layer"].unique())
    rows = "".join(_row(cells) for _, cells in lens.groupby("position", sort=False))
    return (
        f'<div style="overflow-x:auto" tabindex="0" role="region" aria-label="Logit lens by token and layer">'
        f'<table style="border-collapse:collapse;font-size:11px;white-space:nowrap;overflow-wrap:normal">'
        f'<thead><tr><th scope="col" style="{_STAYS}">token, layer</th>{layers}</tr></thead><tbody>{rows}</tbody>'
        f"</table></div><p>The most probable next token at each position, by the logit lens after each layer. "
        f"Colour: probability of the model's own prediction at that position.</p>"
    )


_STAYS = (
    "position:sticky;left:0;text-align:left;white-space:nowrap;padding:1px 8px;"
    "background:var(--jp-layout-color0,var(--vscode-editor-background,Canvas))"
)


def _row(cells: pd.DataFrame) -> str:
    first = cells.iloc[0]
    mark, weight = _ROLE_COLOURS.get(first["role"], "transparent"), 600 if first["role"] in _ROLE_COLOURS else 400
    head = (
        f'<th scope="row" style="{_STAYS};border-left:4px solid {mark};font-weight:{weight}">'
        f"{first['position']} <bdi>{escape(visible(first['token']))}</bdi></th>"
    )
    return f"<tr>{head}{''.join(_cell(cell) for cell in cells.itertuples(index=False))}</tr>"


def _cell(cell: Any) -> str:
    guess = visible(cell.guess)
    short = guess if len(guess) <= _LONGEST else f"{guess[: _LONGEST - 1]}…"
    hint = escape(f"layer {cell.layer}: {guess}; final prediction {cell.probability:.1%}, KL {cell.kl:.3g} nats")
    shade = faint(TEXT_COLOUR, round(_DARKEST * cell.probability, 2))
    return (
        f'<td style="text-align:left;padding:1px 3px;background:{shade}" title="{hint}"><bdi>{escape(short)}</bdi></td>'
    )
