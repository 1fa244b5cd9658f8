"""The saliency of every edge of one prompt, and its picture (section 1, Fig. 1).

The paper draws one prompt's information flow in a shallow and in a deep layer. The picture shows saliency, not
attention, because the sink at the first token would dominate the latter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.figures import LABEL_COLOUR, SOFT, TARGET_COLOUR, TEXT_COLOUR, plain
from mechicl.hooks import run
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.probes.saliency import HeadReduce, SaliencyMap
from mechicl.prompts import Prompt
from mechicl.studies.drawing import Drawing, Panel, draw


def saliency_map(
    model: Any,
    prompt: Prompt,
    layers: Sequence[int],
    *,
    head_reduce: HeadReduce = "abs_of_sum",
    objective: Objective | None = None,
) -> Float[Tensor, "layer query key"]:
    """Saliency of every edge of one prompt, in the given layers, in units of the loss.

    Raises:
        InputError: the model does not have one of the layers.
    """
    n_layers = hooked(model).sizes.n_layers
    if not layers or not set(layers) <= set(range(n_layers)):
        raise InputError(f"saliency_map got layers {list(layers)}; this model has layers 0-{n_layers - 1}.")
    probe = SaliencyMap(tuple(layers), head_reduce, objective or Objective())
    return run(model, [prompt], [probe], progress=None)[probe].values[0]


def saliency_figure(prompt: Prompt, saliency: Float[Tensor, "layer query key"], layers: Sequence[int]) -> go.Figure:
    """Draw the maps of `saliency_map` side by side: row tokens read column tokens; w, p and q have their colours.

    Each layer is scaled to its own largest edge; edges from a token to itself are left out.
    """
    if len(saliency) != len(layers) or saliency.shape[1] != len(prompt):
        raise InputError(
            f"saliency_figure got {len(saliency)} maps of {saliency.shape[1]} tokens for {len(layers)} layers and a "
            f"prompt of {len(prompt)} tokens; give the map of this prompt and its layers."
        )
    maps = zip(layers, saliency.tril(-1).numpy(), strict=True)
    panels = [map_panel(f"layer {layer}", edges, *texts_and_roles(prompt)) for layer, edges in maps]
    drawing = Drawing(pd.DataFrame(), panels, x="", height=map_height(len(prompt)), hover="closest")
    return draw(drawing, title="Saliency of attention edges", subtitle=LEGEND)


def texts_and_roles(prompt: Prompt) -> tuple[list[str], list[str]]:
    """Each token's text, or its position if the text is unknown, and its role: w, p, q or none."""
    texts = [prompt.string[start:end] for start, end in prompt.offsets] or [str(i) for i in range(len(prompt))]
    roles = dict.fromkeys(prompt.w, "w") | dict.fromkeys(prompt.label_positions, "p") | {prompt.target: "q"}
    return texts, [roles.get(i, "") for i in range(len(prompt))]


def map_panel(title: str, edges: np.ndarray, texts: Iterable[str], roles: Iterable[str]) -> Panel:
    """The edges of one layer [query key] relative to the largest; each token's text in the colour of its role."""
    colours = {"w": TEXT_COLOUR, "p": LABEL_COLOUR, "q": TARGET_COLOUR, "": SOFT}
    roles = list(roles)
    labels = [
        f'<span style="color:{colours[role]}">{plain(text.replace(chr(10), "⏎"))}</span>'
        for text, role in zip(texts, roles, strict=True)
    ]
    heat = go.Heatmap(
        z=np.sqrt(edges / max(edges.max(), 1e-30)), zmin=0, zmax=1, colorscale="Blues", showscale=False,
        customdata=edges,        hovertemplate="%{y} reads %{x}<br>saliency %{customdata:.3g}<extra></extra>",
    )  # fmt: skip
    everything = list(range(len(labels)))
    across = [i for i in everything if len(labels) <= _NAMED_ACROSS or roles[i] in ("p", "q")]
    rows, columns = (
        {"tickmode": "array", "tickvals": named, "ticktext": [labels[i] for i in named],
         "tickfont": {"size": 9 if len(labels) < _MANY else 7}}
        for named in (everything, across)
    )  # fmt: skip
    y = {**rows, "autorange": "reversed", "title_text": "reading token"}
    return Panel(title, [heat], {**columns, "tickangle": -90, "title_text": "read token"}, y)


def map_height(n_tokens: int) -> int:
    """Height in pixels at which every row of a map shows its token's text."""
    return max(300, (12 if n_tokens < _MANY else 9) * n_tokens)


_NAMED_ACROSS, _MANY = 24, 100
"""Largest number of tokens named below a map, and the number from which names are small."""


LEGEND = (
    "square root of the share of the layer's largest edge; blue: w, demonstration text; red: p, label words; green: q, "
    "target"
)
