"""The figure of a study on several models: by relative depth, by training step, or one row of panels per model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import GREY, curve_traces, faint, plain, shades, without_outliers
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, draw, where
from mechicl.studies.study import Study

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""One dash per model; of more models, each has a colour."""
_CROWDED = 4
"""Where a panel has more solid curves than this, models share only a panel of one of them."""
_FENCE, _FEW = 3.0, 0.25
"""A colour scale leaves out values this many interquartile ranges beyond the quartiles, if at most this share is."""
_FAINTER = 0.07
"""Opacity of bands of many models, which lie over one another."""
_LAST = {"layer": 1, "point": 0}
"""Columns that count layers, each with the number of layers minus the column's last value."""
_DEPTH = "relative depth: 0 the first layer, 1 the last"
_STEP = re.compile(r"(.*?)[@/_-]?(?:step|checkpoint|iter)[_-]?(\d+)", re.IGNORECASE)

Content: TypeAlias = Sequence[Any]
"""Curves and levels of a panel, or the traces that these became."""


class _Pen(NamedTuple):
    """What tells a model's lines from those of others: a dash, or a colour."""

    colour: str = ""
    dash: str = ""


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
    elif curves and len({_ticks(one) for one in drawings.values()}) == 1:
        layers = {name: int(result.provenance["model"]["n_layers"]) for name, result in results.items()}
        combined = _dashed(drawings) if len(drawings) <= len(_DASHES) else _coloured(drawings, layers)
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
        panel._replace(
            x_axis={k: v for k, v in panel.x_axis.items() if "tick" not in k},
            content=panel.content if "title_text" in panel.x_axis else [_moved(item, last) for item in panel.content],
        )
        for panel in drawing.panels
    ]
    note = "; ".join(filter(None, (drawing.note, _DEPTH)))
    rows = rows.assign(depth=rows[drawing.x] / last)
    return replace(drawing, rows=rows, x="depth", x_title="relative depth", panels=panels, note=note)


def _moved(item: Any, last: int) -> Any:
    """Points that are no curve of the table, from layers to relative depth; anything else as it is."""
    if not isinstance(item, go.Scatter) or item.x is None:
        return item
    return go.Scatter(item).update(x=np.asarray(item.x, float) / last)


def _ticks(drawing: Drawing) -> str:
    """The words at the x axes, which models of different depth need not share."""
    return str([list(panel.x_axis.get("ticktext", ())) for panel in drawing.panels])


def _dashed(drawings: Mapping[str, Drawing]) -> Drawing:
    """Curves of all models in the same panels: the usual colours, one dash per model.

    A panel of many curves shows all models only with its main curve, and all curves only of one model at a time.
    """
    first = next(iter(drawings.values()))
    pens = {name: _Pen(dash=dash) for name, dash in zip(drawings, _DASHES, strict=False)}
    panels = list[Panel]()
    for place, panel in enumerate(first.panels):
        contents = {name: one.panels[place].content for name, one in drawings.items()}
        solid = [item.name for item in panel.content if isinstance(item, Curve) and item.dash == "solid"]
        if len(solid) <= _CROWDED or first.widths:
            panels.append(panel._replace(content=_together(drawings, contents, pens)))
            continue
        main = panel.main if panel.main in solid else solid[0]
        of_main = {name: _with_curve(content, main) for name, content in contents.items()}
        panels.append(panel._replace(title=f"{panel.title}: {main}", content=_together(drawings, of_main, pens)))
        panels += [
            panel._replace(title=f"{panel.title}: {name}", content=_together(drawings, {name: content}, pens))
            for name, content in contents.items()
        ]
    key = [_key(name, GREY, pen.dash) for name, pen in pens.items()]
    panels[0] = panels[0]._replace(content=[*key, *panels[0].content])
    return replace(first, panels=panels)


def _coloured(drawings: Mapping[str, Drawing], layers: Mapping[str, int]) -> Drawing:
    """A panel per curve, with all models in it: one colour per model, in the order of their numbers of layers."""
    first = next(iter(drawings.values()))
    order = sorted(drawings, key=lambda name: layers[name])
    pens = {name: _Pen(colour=colour) for name, colour in zip(order, shades(len(order)), strict=True)}
    panels = list[Panel]()
    for place, panel in enumerate(first.panels):
        contents = {name: drawings[name].panels[place].content for name in order}
        curves = dict.fromkeys(item.name for own in contents.values() for item in own if isinstance(item, Curve))
        for curve in curves:
            title = panel.title if len(curves) == 1 else f"{panel.title}: {curve}"
            own = {name: _with_curve(content, curve) for name, content in contents.items()}
            panels.append(panel._replace(title=title, content=_together(drawings, own, pens)))
    key = [_key(f"{name}, {layers[name]} layers", pen.colour, group=name) for name, pen in pens.items()]
    panels[0] = panels[0]._replace(content=[*key, *panels[0].content])
    return replace(first, panels=panels, widths=(), hover="closest")


def _with_curve(content: Content, name: str) -> Content:
    """The levels of a panel, and one of its curves."""
    return [item for item in content if isinstance(item, Level) or item.name == name]


def _together(drawings: Mapping[str, Drawing], contents: Mapping[str, Content], pens: Mapping[str, _Pen]) -> Content:
    """The content of a panel that models share.

    A level that all of them have is drawn once. Levels of single models have their names in the legend: next to the
    lines, names of levels at about the same height would lie over one another.
    """
    first, *others = contents.values()
    common = [item for item in first if isinstance(item, Level) and all(item in other for other in others)]
    drawn, keys = list[Any](common), dict[str, Any]()
    for name, content in contents.items():
        pen, curves = pens[name], [item for item in content if isinstance(item, Curve)]
        traces = [trace for curve in curves for trace in _of_model(drawings[name], curve, name, pen)]
        along = list(dict.fromkeys(value for trace in traces if not trace.fill for value in trace.x))
        own = [item for item in content if isinstance(item, Level) and item not in common]
        drawn += [*traces, *(_level(level, along, name, pen) for level in own)]
        keys |= {level.text: _level_key(level, pen) for level in own if level.text}
    return [*drawn, *keys.values()]


def _of_model(drawing: Drawing, curve: Curve, model: str, pen: _Pen) -> list[Any]:
    rows = where(drawing.rows, metric=curve.metric, **curve.where)
    if rows.empty:
        return []
    colour = pen.colour or curve.colour
    traces = curve_traces(rows, x=drawing.x, name=curve.name, colour=colour, dash=pen.dash or "solid")
    traces[-1].hovertemplate += f"<extra>{plain(curve.name)}, {plain(model)}</extra>"
    traces[-1].marker.size = 3
    if pen.colour:  # many models: thin lines, whose names are not those of curves
        for trace in traces:
            trace.update(showlegend=False, legendgroup=model)
            trace.update({"fillcolor": faint(colour, _FAINTER)} if trace.fill else {"line_width": 1.5})
    elif curve.dash != "solid":  # dashes are the models'
        traces[-1].update(opacity=0.4, line={"width": 1.2})
    return list(traces)


def _level(level: Level, along: Sequence[Any], model: str, pen: _Pen) -> go.Scatter:
    """A level as a curve along the others, because several levels differ only in what marks their models."""
    return go.Scatter(
        x=along, y=[level.value] * len(along), mode="lines", showlegend=False,
        legendgroup=model if pen.colour else plain(level.text),
        line={"color": pen.colour or level.colour, "dash": pen.dash or level.dash, "width": 1.5},
        hovertemplate=f"%{{y:.4f}}<extra>{plain(', '.join(filter(None, (level.text, model))))}</extra>",
    )  # fmt: skip


def _level_key(level: Level, pen: _Pen) -> go.Scatter:
    return _key(level.text, GREY, level.dash) if pen.colour else _key(level.text, level.colour)


def _key(name: str, colour: str, dash: str = "solid", group: str | None = None) -> go.Scatter:
    """An entry of the legend; a click on it hides the group."""
    line = {"color": colour, "dash": dash, "width": 2.5}
    more = {} if group is None else {"legendgroup": group, "showlegend": True}
    return go.Scatter(x=[None], y=[None], name=plain(name), mode="lines", line=line, **more)


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
        **_scale(shown, "log10" if log else "mean"),
        hovertemplate="step %{x}, depth %{y:.2f}: %{customdata:.4g}<extra></extra>",
    )  # fmt: skip
    return Panel(title, [trace], {"type": "category"})


def _scale(values: np.ndarray, title: str) -> dict[str, Any]:
    """A colour scale that a step of extreme values does not flatten; its ends say where values go beyond it."""
    bar: dict[str, Any] = {"title": {"text": title, "side": "right"}}
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"colorbar": bar}
    kept = without_outliers(finite, fence=_FENCE, few=_FEW)
    low, high = float(kept.min()), float(kept.max())
    below, above = bool(finite.min() < low), bool(finite.max() > high)
    if below or above:
        ticks = list(np.linspace(low, high, 4))
        texts = _in_few_digits(ticks)
        texts[0], texts[-1] = f"{'≤ ' * below}{texts[0]}", f"{'≥ ' * above}{texts[-1]}"
        bar |= {"tickmode": "array", "tickvals": ticks, "ticktext": texts}
    return {"colorbar": bar, "zmin": low, "zmax": high}


def _in_few_digits(values: Sequence[float]) -> list[str]:
    """Numbers in as few digits as tell them apart."""
    written = ([f"{value:.{digits}g}" for value in values] for digits in (2, 3, 4, 5))
    return next((texts for texts in written if len(set(texts)) == len(texts)), [f"{value:.6g}" for value in values])


def _side_by_side(drawings: Mapping[str, Drawing]) -> Drawing:
    """A row of panels for each model."""
    first = next(iter(drawings.values()))
    panels = [
        panel._replace(title=", ".join(filter(None, (name, panel.title))), content=[
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
