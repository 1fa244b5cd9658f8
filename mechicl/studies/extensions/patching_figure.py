"""The figure of activation patching: maps of layers by kind of token, and bars for whole sets."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import BLUE, GREY, LABEL_COLOUR
from mechicl.studies.drawing import Panel, bars, where

_ROWS = {"restored": "exactly", "attributed": "to first order"}
_WHOLE = {
    "clean into twin": "clean keys and values in the twin, all layers",
    "twin into clean": "the twin's in the clean prompt, all layers",
}
_SHARE = "share of prompts with the clean answer"


def patching_panels(summary: pd.DataFrame, sites: Sequence[str], kinds: Sequence[str]) -> list[Panel]:
    """Maps of all sites, exact, then to first order; and bars for each direction of whole sets."""
    by = ["metric", "direction", "site", "kind", "layer"]
    means = summary.groupby(by, as_index=False, sort=False)[["mean", "low", "high"]].mean()
    maps = means[means["layer"] >= 0]
    sites = [site for site in sites if site in set(maps["site"])]  # a model may lack MLPs
    panels = list[Panel]()
    for metric, how in _ROWS.items():
        for site in sites:
            of_site = where(maps, metric=metric, site=site).pivot(index="kind", columns="layer", values="mean")
            there = [kind for kind in reversed(kinds) if kind in of_site.index]
            grid = go.Heatmap(
                z=of_site.loc[there].to_numpy(), x=of_site.columns.tolist(), y=there, zmin=-1, zmax=1,
                colorscale="RdBu_r",
                colorbar={"title": {"text": "restored", "side": "right"}},
                hovertemplate="layer %{x}, %{y}: %{z:.3f}<extra></extra>",
            )  # fmt: skip
            x_axis = {"title_text": "layer", "dtick": 1}
            panels.append(Panel(f"{site.replace('_', ' ')}, {how}", [grid], x_axis))
    for direction, title in _WHOLE.items():
        whole = where(means, metric="clean_answer", direction=direction, layer=-1).set_index("kind")
        there = [kind for kind in reversed(kinds) if kind in whole.index]
        colours = [{"label words": LABEL_COLOUR, "random text": GREY}.get(kind, BLUE) for kind in there]
        panels.append(
            Panel(title, [bars(whole.loc[there], there, colours)], {"range": [0, 1.02], "title_text": _SHARE})
        )
    return panels
