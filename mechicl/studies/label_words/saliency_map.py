"""The saliency of every edge of one prompt, and its picture (section 1, Fig. 1).

The paper draws one prompt's information flow in a shallow and in a deep layer. Its picture is saliency, not attention,
which the first token's sink would dominate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.figures import LABEL_COLOUR, TARGET_COLOUR, TEXT_COLOUR, panels, plain, styled
from mechicl.hooks import run
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.probes.saliency import HeadReduce, SaliencyMap
from mechicl.prompts import Prompt


def saliency_map(
    model: Any,
    prompt: Prompt,
    layers: Sequence[int],
    *,
    head_reduce: HeadReduce = "abs_of_sum",
    objective: Objective | None = None,
) -> Float[Tensor, "layer query key"]:
    """Saliency of every edge of one prompt, in the layers asked for, in units of the loss.

    Raises:
        InputError: a layer that the model does not have.
    """
    n_layers = hooked(model).sizes.n_layers
    if not layers or not set(layers) <= set(range(n_layers)):
        raise InputError(f"saliency_map got layers {list(layers)}; this model has layers 0-{n_layers - 1}.")
    probe = SaliencyMap(tuple(layers), head_reduce, objective or Objective())
    return run(model, [prompt], [probe], progress=None)[probe].values[0]


def saliency_figure(prompt: Prompt, saliency: Float[Tensor, "layer query key"], layers: Sequence[int]) -> go.Figure:
    """Draw the maps of `saliency_map` side by side: rows read, columns are read; w, p and q in their colours.

    Each layer is scaled to its own largest edge, and edges of a token with itself are left out.
    """
    if len(saliency) != len(layers) or saliency.shape[1] != len(prompt):
        raise InputError(
            f"saliency_figure got {len(saliency)} maps of {saliency.shape[1]} tokens for {len(layers)} layers and a "
            f"prompt of {len(prompt)} tokens; give the map of this prompt and its layers."
        )
    figure = panels([f"layer {layer}" for layer in layers])
    for column, edges in enumerate(saliency, start=1):
        below = edges.tril(-1)
        figure.add_heatmap(
            z=(below / below.max().clamp_min(1e-30)).tolist(), zmin=0, zmax=1, colorscale="Blues",
            colorbar={"title": "share of the<br>largest edge"}, showscale=column == len(layers),
            customdata=below.tolist(), row=1, col=column,
            hovertemplate="%{y} reads %{x}<br>saliency %{customdata:.3g}<extra></extra>",
        )  # fmt: skip
    places = list(range(len(prompt)))
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": _labels(prompt), "tickfont": {"size": 9}}
    figure.update_xaxes(tickangle=-90, **ticks)
    figure.update_yaxes(autorange="reversed", **ticks)
    return styled(
        figure, title="Saliency of attention edges", x="read token", y="reading token", subtitle=_LEGEND,
        height=max(300, 11 * len(prompt)),
    ).update_layout(hovermode="closest")  # fmt: skip


_LEGEND = "blue: w, demonstration text; red: p, label words; green: q, target"


def _labels(prompt: Prompt) -> list[str]:
    """Each token's text in the colour of its role; its position where the text is not known."""
    colours = dict.fromkeys(prompt.w, TEXT_COLOUR) | dict.fromkeys(prompt.label_positions, LABEL_COLOUR)
    colours[prompt.target] = TARGET_COLOUR
    texts = [prompt.string[start:end] for start, end in prompt.offsets] or [str(i) for i in range(len(prompt))]
    shown = [plain(text.replace("\n", "⏎")) for text in texts]
    return [f'<span style="color:{colours.get(i, "#6E6E6E")}">{text}</span>' for i, text in enumerate(shown)]
