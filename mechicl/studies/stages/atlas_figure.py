"""The atlas's figure and finding: signatures of early and late stages, boundaries, the attention sink.

For several models the first panel is the paper's Fig. 1: four signatures, each scaled to its own range per model, on a
common relative depth, averaged over models; next to it are the averages of each family of two models or more.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from mechicl.figures import GREY, INK, SKY, STAGE_COLOURS, curve_traces
from mechicl.results import Result
from mechicl.studies.drawing import NO_PANEL, Drawing, Panel, where
from mechicl.studies.stages.boundaries import FEW_NEURONS, OF_WEIGHTS, STAGES, spread_of
from mechicl.studies.stages.in_context_atlas import IN_CONTEXT
from mechicl.studies.stages.norms import sink_layer
from mechicl.studies.twins import given

_COLOURS = [STAGE_COLOURS[stage] for stage in STAGES]
PANELS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "early stages": {
        "drop KL": (INK, "solid"),
        "local attention": (_COLOURS[0], "solid"),
        "words retrieved": (_COLOURS[0], "dash"),
        "words lost by a cut": (_COLOURS[0], "dot"),
        "block influence": (_COLOURS[1], "solid"),
        "word sense": (_COLOURS[1], "dash"),
    },
    "late stages": {
        "lens KL": (_COLOURS[2], "solid"),
        "prediction neurons": (_COLOURS[2], "dot"),
        "votes": (_COLOURS[2], "dash"),
        "MLP norm": (_COLOURS[3], "solid"),
        "suppression neurons": (_COLOURS[3], "dot"),
        "lens entropy": (GREY, "solid"),
    },
    "position 0": {"norm at position 0": (SKY, "dot"), "attention to position 0": (SKY, "solid")},
    "in context": IN_CONTEXT,
}
"""Signatures by panel, each in its stage's colour."""
AVERAGED = {
    "drop KL": (INK, "KL of dropping a layer"), "local attention": (_COLOURS[0], "attention to the previous five"),
    "prediction neurons": (_COLOURS[2], "density of prediction neurons"),
    "suppression neurons": (_COLOURS[3], "density of suppression neurons"),
}  # fmt: skip
"""The signatures of Fig. 1."""
_DEPTHS = np.linspace(0, 1, 101)


def drawing(result: Result, summary: pd.DataFrame, note: str) -> Drawing:
    """One row of panels per model."""
    of_models = {
        str(model): rows[~rows["metric"].isin(_left_out(result.table, str(model), rows))]
        for model, rows in summary.groupby("model", sort=False)
    }
    there = {metric for rows in of_models.values() for metric in rows["metric"]}
    kinds = {title: styles for title, styles in PANELS.items() if there & set(styles)}
    of_all_texts = {
        model: pd.concat([of_models[name] for name in names])
        .groupby(["metric", "layer", "depth"], as_index=False, sort=False)[["mean"]].mean()
        for model, names in on_texts(result).items()
    }  # fmt: skip
    panels = _averages(of_all_texts, len(kinds)) if len(of_all_texts) > 1 else []
    for model, rows in of_models.items():
        for title, styles in kinds.items():
            curves = [_scaled(where(rows, metric=name), name, *style) for name, style in styles.items()]
            panels.append(Panel(f"{model}, {title}", [curve for curve in curves if len(curve.x)]))
    return Drawing(
        summary, panels, x="depth", x_title="depth (0 first layer, 1 last)", common=True, widths=(1.0,) * len(kinds),
        y_title="scaled to 0..1", y_axis={"range": [-0.02, 1.12]}, hover="closest",
        note=f"each curve on its own scale, linear within its layers' spread, logarithmic outside; {note}",
    )  # fmt: skip


def on_texts(result: Result) -> dict[str, list[str]]:
    """The names in the table by model: a model on several texts has a name for each."""
    given = result.provenance.get("model", [])
    of_name = {one["name"]: one.get("model", one["name"]) for one in (given if isinstance(given, list) else [given])}
    found: dict[str, list[str]] = {}
    for name in result.table["model"].unique():
        found.setdefault(str(of_name.get(name, name)), []).append(str(name))
    return found


def _averages(of_models: Mapping[str, pd.DataFrame], columns: int) -> list[Panel]:
    """Whole rows of panels: the means over all models, then those over each family."""
    panels = [_average(of_models, "")]
    for name, models in families(list(of_models)).items():
        if 1 < len(models) < len(of_models):
            panels.append(_average({model: of_models[model] for model in models}, f"{name}: "))
    return [*panels, *[NO_PANEL] * (-len(panels) % columns)]


def families(models: Sequence[str]) -> dict[str, list[str]]:
    """The models by what their names begin with: gpt2 and gpt2-xl are of one family, pythia-70m and gpt-neo are not."""
    found: dict[str, list[str]] = {}
    for model in models:
        name = model.rpartition("/")[2].lower()
        begins = re.match(r"[a-z]+\d*(-(neox|neo|j)\b)?", name)
        found.setdefault(begins.group() if begins else name, []).append(model)
    return found


def _average(of_models: Mapping[str, pd.DataFrame], family: str) -> Panel:
    """Means over models, with their range."""
    content = list[go.Scatter]()
    for name, (colour, words) in AVERAGED.items():
        curves = on_common_depth([where(rows, metric=name) for rows in of_models.values()])
        if not len(curves):
            continue
        of = "" if len(curves) == len(of_models) else f" ({len(curves)} of {len(of_models)} models)"
        means = pd.DataFrame({"depth": _DEPTHS, "mean": curves.mean(0), "low": curves.min(0), "high": curves.max(0)})
        traces = curve_traces(means, x="depth", name=words + of, colour=colour)
        traces[-1].mode = "lines"
        content += traces
    of_all = "" if family else ", each curve scaled to its own range (Fig. 1)"
    return Panel(f"{family}mean and range of {len(of_models)} models{of_all}", content)


def on_common_depth(signatures: Sequence[pd.DataFrame]) -> Float[np.ndarray, "model depth"]:
    """One signature of several models, each scaled from 0 (minimum) to 1 (maximum), at 101 depths from 0 to 1.

    Models in which it is absent, or equal in all layers, are left out.
    """
    scaled = []
    for rows in signatures:
        values = rows["mean"].to_numpy(float)
        if len(values) > 1 and np.ptp(values) > 0:
            scaled.append(np.interp(_DEPTHS, rows["depth"], (values - values.min()) / np.ptp(values)))
    return np.array(scaled).reshape(len(scaled), len(_DEPTHS))


def _scaled(rows: pd.DataFrame, name: str, colour: str, dash: str) -> go.Scatter:
    """A curve on a scale on which no single layer flattens all others; hovering shows the values."""
    means = rows["mean"].to_numpy(float)
    if name == "words retrieved":  # increments per layer are noisier than the cumulative value
        means = means.cumsum()
    middle, spread = spread_of(means) if len(means) else (0.0, 1.0)
    y = np.arcsinh((means - middle) / spread)
    low, high = (y.min(), y.max()) if len(y) else (0.0, 1.0)
    return go.Scatter(
        x=rows["depth"], y=(y - low) / ((high - low) or 1.0), name=name,
        mode="lines+markers", line={"color": colour, "width": 2.2, "dash": dash}, marker={"size": 5},
        customdata=rows[["mean", "low", "high"]],
        hovertemplate="%{customdata[0]:.4f}  [%{customdata[1]:.4f}, %{customdata[2]:.4f}]",
    )  # fmt: skip


def _left_out(table: pd.DataFrame, model: str, summary: pd.DataFrame) -> list[str]:
    """Curves to omit: kinds with too few neurons, one of which would fill the panel; position 0 if it is no sink."""
    rows = given(table)
    neurons = rows[(rows["model"] == model) & rows["signature"].isin(OF_WEIGHTS)]
    counts = (neurons["value"] * neurons["weight"]).groupby(neurons["signature"]).sum()
    few = [str(kind) for kind in counts[counts < FEW_NEURONS].index]
    return few if sink_in_words(summary) else [*few, *PANELS["position 0"]]


def add_boundaries(figure: go.Figure, boundaries: pd.DataFrame, n_layers: Mapping[Any, int]) -> None:
    """Lines and bands of the supported boundaries, in every panel of their model."""
    columns = figure.layout.meta["columns"]
    for place, title in enumerate(figure.layout.meta["panels"]):
        model, grid = title.rpartition(", ")[0], {"row": place // columns + 1, "col": place % columns + 1}
        for row in where(boundaries, model=model, verdict="supported").to_dict("records"):
            _add_boundary(figure, row, n_layers[model] - 1, grid)


def _add_boundary(figure: go.Figure, row: Mapping[Hashable, Any], last: int, grid: Mapping[str, int]) -> None:
    """A stage begins before its first layer, so the line is half a layer to the left."""
    place = [(layer - 0.5) / max(last, 1) for layer in (row["layer"], row["low"], row["high"])]
    colour = STAGE_COLOURS[row["stage"]]
    if place[1] < place[2]:
        figure.add_vrect(place[1], place[2], fillcolor=colour, opacity=0.15, line_width=0, **grid)
    text = row["stage"] + (" (overlaps)" if row["overlaps"] else "")
    late = row["stage"] == STAGES[3]  # it may begin at the same layer as prediction ensembling
    figure.add_vline(
        place[0], line={"dash": "dot", "color": colour}, **grid,
        annotation={"text": text, "textangle": -90, "yanchor": "bottom" if late else "top", "font": {"size": 11}},
        annotation_position=f"{'bottom' if late else 'top'} {'left' if place[0] > 0.9 else 'right'}",
    )  # fmt: skip


def boundary_in_words(row: Mapping[Hashable, Any]) -> str:
    """Where a stage begins, by which signatures, and whether it can be separated from the previous one."""
    if row["verdict"] != "supported":
        return f"no boundary is shown for {row['stage']}"
    text = f"{row['stage']} from layer {row['layer']:.0f} [{row['low']:.0f}, {row['high']:.0f}] (by {row['by']})"
    return text + (f", not separable from {row['overlaps']}" if row["overlaps"] else "")


def sink_in_words(summary: pd.DataFrame) -> list[str]:
    """The layer that makes position 0 an attention sink, or only large; empty if there is none."""
    norm, attention = (
        where(summary, metric=name).set_index("layer")["mean"]
        for name in ("norm at position 0", "attention to position 0")
    )
    layer = sink_layer(norm.shift(fill_value=1.0), norm)
    if layer is None:
        return []
    large = f"the residual's norm there is {norm[layer]:.3g} times the median of all others"
    later, until = attention[attention.index > layer].mean(), attention[attention.index <= layer].mean()
    if np.isnan(later):  # it is the last layer
        return [f"Layer {layer} makes position 0 large: {large}"]
    if later <= until:
        return [f"Layer {layer} makes position 0 large, but later layers do not attend to it more: {large}"]
    return [
        f"Layer {layer} makes position 0 an attention sink: {large}, and it receives {later:.0%} of attention in later "
        f"layers ({until:.0%} until then)"
    ]
