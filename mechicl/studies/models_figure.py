"""The figure of a study on several models: by relative depth, by training step, or one row of panels per model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import GREY, curve_traces
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, draw, where
from mechicl.studies.study import Study

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""One dash per model; with more models, each has its own panels."""
_CROWDED = 4
"""Where one panel of a model has more curves than this, each model gets its own panel."""
_LAST = {"layer": 1, "point": 0}
"""Columns that count layers, each with the number of layers minus the column's last value."""
_DEPTH = "relative depth: 0 the first layer, 1 the last"
_STEP = re.compile(r"(.*?)[@/_-]?(?:step|checkpoint|iter)[_-]?(\d+)", re.IGNORECASE)


def draw_models(study: Study, results: Mapping[str, Result]) -> go.Figure:
    """One figure of one study on several models."""
    drawings = {name: _on_depth(study.drawing(result), result) for name, result in results.items()}
    first = next(iter(drawings.values()))
    curves = all(
        isinstance(item, Curve | Level) for one in drawings.values() for panel in one.panels for item in panel.content
    ) and all([panel.title for panel in one.panels] == [p.title for p in first.panels] for one in drawings.values())
    steps, along = training_steps(list(results)), first.x == "depth"
    if curves and along and steps is not None:
        combined = _over_steps(drawings, steps)
    elif curves and len(drawings) <= len(_DASHES) and len({_ticks(one) for one in drawings.values()}) == 1:
        combined = _overlaid(drawings)
    else:
        combined = _side_by_side(drawings)
    protocol = "" if study.no_paper_protocol else f"protocol {study.protocol}"
    return draw(
        combined, title=f"{study.title}{combined.about}: {', '.join(results)}",
        subtitle="; ".join(filter(None, (study.source, protocol, combined.note))),
    )  # fmt: skip


def training_steps(names: list[str]) -> list[int] | None:
    """Each model's training step, read from its name (name@step1000), if all are checkpoints of one model."""
    found = [_STEP.fullmatch(name) for name in names]
    if not all(found) or len({one[1] for one in found if one}) > 1:
        return None
    return [int(one[2]) for one in found if one]


def _on_depth(drawing: Drawing, result: Result) -> Drawing:
    """The drawing with relative depth on its x axis (0: first layer, 1: last), if the x axis counts layers."""
    rows = drawing.rows.assign(model=result.provenance["model"]["name"])
    if drawing.x not in _LAST or drawing.x not in rows:
        return replace(drawing, rows=rows)
    last = max(1, int(result.provenance["model"]["n_layers"]) - _LAST[drawing.x])
    panels = [
        panel._replace(x_axis={k: v for k, v in panel.x_axis.items() if "tick" not in k}) for panel in drawing.panels
    ]
    note = "; ".join(filter(None, (drawing.note, _DEPTH)))
    rows = rows.assign(depth=rows[drawing.x] / last)
    return replace(drawing, rows=rows, x="depth", x_title="relative depth", panels=panels, note=note)


def _ticks(drawing: Drawing) -> str:
    """The words at the x axes, which models of different depth need not share."""
    return str([list(panel.x_axis.get("ticktext", ())) for panel in drawing.panels])


def _overlaid(drawings: Mapping[str, Drawing]) -> Drawing:
    """Curves of all models in the same panels: the usual colours, one dash per model.

    Panels of many curves are not shared.
    """
    first = next(iter(drawings.values()))
    dashes = dict(zip(drawings, _DASHES, strict=False))
    panels = []
    for place, panel in enumerate(first.panels):
        of_models = {
            name: [trace for item in one.panels[place].content for trace in _of_model(one, item, name, dashes[name])]
            for name, one in drawings.items()
        }
        many = sum(isinstance(item, Curve) and item.dash == "solid" for item in panel.content) > _CROWDED
        if many and not first.widths:
            panels += [panel._replace(title=f"{panel.title}: {name}", content=own) for name, own in of_models.items()]
        else:
            panels.append(panel._replace(content=list(chain.from_iterable(of_models.values()))))
    key = [
        go.Scatter(x=[None], y=[None], name=name, mode="lines", line={"color": GREY, "dash": dash, "width": 2.5})
        for name, dash in dashes.items()
    ]
    panels[0] = panels[0]._replace(content=[*panels[0].content, *key])
    return replace(first, panels=panels)


def _of_model(drawing: Drawing, item: Any, model: str, dash: str) -> list[Any]:
    if isinstance(item, Level):
        return [item._replace(text=f"{item.text} ({model})" if item.text else "", dash=dash)]
    rows = where(drawing.rows, metric=item.metric, **item.where)
    if rows.empty:
        return []
    traces = curve_traces(rows, x=drawing.x, name=item.name, colour=item.colour, dash=dash)
    traces[-1].hovertemplate += f"<extra>{item.name}, {model}</extra>"
    traces[-1].marker.size = 3
    if item.dash != "solid":  # dashes are the models'
        traces[-1].update(opacity=0.4, line={"width": 1.2})
    return list(traces)


def _over_steps(drawings: Mapping[str, Drawing], steps: list[int]) -> Drawing:
    """A heat map for each curve: relative depth by training step."""
    order = np.argsort(steps)
    of_step = [list(drawings.values())[place] for place in order]
    labels = [str(steps[place]) for place in order]
    first = of_step[0]
    panels = []
    for panel in first.panels:
        log = panel.y_axis.get("type") == "log"
        for item in panel.content:
            if isinstance(item, Level):
                continue
            columns = [where(one.rows, metric=item.metric, **item.where).set_index("depth")["mean"] for one in of_step]
            grid = pd.concat(columns, axis=1, keys=labels).sort_index()
            if not grid.empty:
                panels.append(_heat_map(f"{panel.title}: {item.name}", grid, log))
    about = {
        "note": f"means; {_DEPTH}",
        "about": first.about,
        "x_title": "training step",
        "y_title": str(first.x_title),
    }
    return Drawing(first.rows.iloc[:0], panels, x="", widths=(1.0,), height=150, hover="closest", **about)


def _heat_map(title: str, grid: pd.DataFrame, log: bool) -> Panel:
    values = grid.to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.log10(values) if log else values
    trace = go.Heatmap(
        x=list(grid.columns), y=list(grid.index), z=shown, customdata=values, colorscale="Viridis",
        colorbar={"title": {"text": "log10" if log else "mean", "side": "right"}},
        hovertemplate="step %{x}, depth %{y:.2f}: %{customdata:.4g}<extra></extra>",
    )  # fmt: skip
    return Panel(title, [trace], {"type": "category"})


def _side_by_side(drawings: Mapping[str, Drawing]) -> Drawing:
    """A row of panels for each model."""
    first = next(iter(drawings.values()))
    panels = [
        panel._replace(title=f"{name}: {panel.title}".removesuffix(": "), content=[
            replace(item, where={**item.where, "model": name}) if isinstance(item, Curve) else item
            for item in panel.content
        ])
        for name, drawing in drawings.items()
        for panel in drawing.panels
    ]  # fmt: skip
    counts = {len(one.panels) for one in drawings.values()}
    rows = pd.concat([one.rows for one in drawings.values()], ignore_index=True)
    notes = "; ".join(dict.fromkeys(filter(None, chain(one.note for one in drawings.values()))))
    widths = first.widths or (1.0,) * (counts.pop() if len(counts) == 1 else 1)
    return replace(first, rows=rows, panels=panels, widths=widths, note=notes)
