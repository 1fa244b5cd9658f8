"""The figure of anchor-heads: every head's scores, and predictions without the top heads."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import BLUE, GREY, LABEL_COLOUR
from mechicl.studies.drawing import Panel, bars, head_grids, where
from mechicl.studies.extensions.head_ablations import top_heads

_SCORES, _LEAST = ("induction", "previous"), 0.1
"""Standard scores, and the least share of attention that qualifies a head as such."""
_ARMS = ("nothing", "reading", "reading controls", "gathering", "gathering controls")
_NAMES = {"reading": "reading heads", "reading controls": "controls", "gathering": "gathering heads",
          "gathering controls": "their controls", "nothing": "nothing"}  # fmt: skip
_COLOURS = dict(zip(_ARMS, (BLUE, LABEL_COLOUR, GREY, LABEL_COLOUR, GREY), strict=True))
_TITLES = {
    "label_loyalty": "label loyalty", "word_loyalty_5": "word loyalty, k = 5", "accuracy": "accuracy",
    "loss": "loss on texts, nats",
}  # fmt: skip


def grids_of(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Per score, the value of each head [layer head]; enrichment that ranks heads is less that of random text."""
    rows = rows[rows["part"] == "heads"]
    means = rows.groupby(["metric", "layer", "head"])["mean"].mean()
    grids = {str(name): of_score.unstack("head").to_numpy() for name, of_score in means.groupby(level=0)}
    for kind in ("reading", "gathering"):
        grids[kind] = grids[kind] - grids.pop(f"{kind}_random_text")
    return grids


def heads_panels(summary: pd.DataFrame) -> list[Panel]:
    """Bars of metrics after ablation; per head: reading, gathering, loss without it, effects, and scores."""
    grids, pair = grids_of(summary), ("reading", "gathering")
    style: dict[str, Any] = {"colorscale": "Viridis"}
    enriched = head_grids(
        {f"{kind}, label words less random text": grids[kind] for kind in pair}, "times an average token's saliency",
        zmin=0, zmax=20, **style,
    )  # fmt: skip
    lost = _lost_alone(grids) if "lost_alone" in grids else []
    effects = {f"{kind} effect beyond random text": grids[f"{kind}_effect"] for kind in pair}
    scores = {"induction score": grids["induction"], "attention to the previous token": grids["previous"]}
    return [
        *_bars(summary), *enriched, *lost, *head_grids(effects, "logits per edge"),
        *head_grids(scores, "share of attention", zmin=0, zmax=1, **style),
    ]  # fmt: skip


def _lost_alone(grids: Mapping[str, np.ndarray]) -> list[Panel]:
    """The answer's loss when each head is ablated alone, as a map and against the head's saliency."""
    lost, effect = grids["lost_alone"], grids["reading_effect"]
    layer, head = (place.flatten() for place in np.indices(lost.shape))
    dots = go.Scatter(
        x=effect.flatten(), y=lost.flatten(), mode="markers", marker={"color": GREY, "size": 5}, showlegend=False,
        customdata=np.stack([layer, head], -1),
        hovertemplate="L%{customdata[0]}H%{customdata[1]}: %{y:.3g} logits, effect %{x:.3g}<extra></extra>",
    )  # fmt: skip
    axes = {"title_text": "reading effect, logits per edge"}, {"title_text": "logits lost"}
    return [
        *head_grids({"answer's logit lost without this head alone": lost}, "logits"),
        Panel("each head: lost without it, by its reading effect", [dots], *axes),
    ]


def _bars(summary: pd.DataFrame) -> list[Panel]:
    by, panels = ["metric", "arm", "method"], list[Panel]()
    means = where(summary, part="ablations").groupby(by, as_index=False, sort=False)[["mean", "low", "high"]].mean()
    for metric, title in _TITLES.items():
        rows = where(means, metric=metric)
        rows = rows[rows["method"].isin(["", "mean"])].set_index("arm")
        there = [arm for arm in reversed(_ARMS) if arm in rows.index]
        if there:
            drawn = bars(rows.loc[there], [_NAMES[arm] for arm in there], [_COLOURS[arm] for arm in there])
            panels.append(Panel(f"{title}, mean ablation", [drawn], {"rangemode": "tozero"}))
    return panels


def overlap(summary: pd.DataFrame, k: int) -> pd.DataFrame:
    """Heads in common among the k highest of two scores, and how many two random choices of that size would share.

    Induction and previous-token heads count only if they pay at least a tenth of their attention as such.
    """
    found = []
    for (model, task, shots), rows in summary.groupby(["model", "task", "shots"], sort=False):
        grids = grids_of(rows)
        scored: list[str] = [name for name in ("reading_effect", "gathering_effect", "lost_alone") if name in grids]
        highest = {name: set(top_heads(grids[name], k)) for name in scored}
        highest |= {name: {one for one in top_heads(grids[name], k) if grids[name][one] >= _LEAST} for name in _SCORES}
        for one, other in combinations(highest, 2):
            chance = len(highest[one]) * len(highest[other]) / grids[one].size
            heads = f"{one}, {other}".replace("_effect", "").replace("lost_alone", "ablation")
            common = len(highest[one] & highest[other])
            found.append({"model": model, "task": task, "shots": shots, "heads": heads, "common": common,
                          "by chance": chance})  # fmt: skip
    return pd.DataFrame(found)
