"""Several models, or one on several texts, as one result: curves laid over each other on relative depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, INK)
_DASHES = ("solid", "dash", "dot")


@door
def compare(results: Sequence[Result]) -> Result:
    """Results of one study on several models as one, whose figure lays their curves over each other.

    Depth is relative: 0 the first layer (or the embedding), 1 the last. Verdicts are of each model.

    Raises:
        InputError: fewer than two results, of several studies or switches, two of one model, or of a study whose figure
            is not by depth.
    """
    if len(results) < 2:
        raise InputError("There is nothing to compare; give the results of one study on several models.")
    study = results[0].study
    if any(result.study.name != study.name or result.study.protocol != study.protocol for result in results):
        raise InputError("Results of several studies or protocols cannot be compared; give those of one.")
    if not getattr(study, "overlaid", ()):
        raise InputError(f"The figure of {study.name} is not by depth; look at the results one by one.")
    models = [name for result in results for name in result.table["model"].unique()]
    if len(set(models)) < len(models):
        raise InputError(f"Two of the results are of the same model ({', '.join(models)}); give each model once.")
    table = pd.concat([result.table for result in results], ignore_index=True)
    facts = {**results[0].provenance, "model": [result.provenance["model"] for result in results]}
    return Result(study, table, facts)


def overlaid(study: Any, result: Result) -> Drawing:
    """Panels of the metrics that a study lays over each other, with the curves of every model on relative depth."""
    drawings: dict[str, Drawing] = {}
    for model, rows in result.table.groupby("model", sort=False):
        drawings[str(model)] = study.drawing(Result(study, rows.reset_index(drop=True), result.provenance))
    rows = pd.concat([_on_depth(drawing) for drawing in drawings.values()], ignore_index=True)
    panels = []
    for metric in study.overlaid:
        content: list[Curve] = []
        axis: Panel | None = None
        for colour, (model, drawing) in zip(_COLOURS * len(drawings), drawings.items(), strict=False):
            found = [(panel, one) for panel in drawing.panels for one in _curves(panel, metric)]
            axis = axis or (found[0][0] if found else None)
            for dash, (_, one) in zip(_DASHES, found, strict=False):
                name = model if len(found) == 1 else f"{model}, {one.name}"
                content.append(replace(one, name=name, colour=colour, dash=dash, where={**one.where, "model": model}))
        if axis is not None:
            panels.append(Panel(axis.title, content, {}, axis.y_axis))
    first = next(iter(drawings.values()))
    return replace(
        first, rows=rows, panels=panels, x="depth", x_title="depth (0 first, 1 last)", common=False, widths=()
    )  # fmt: skip


def _curves(panel: Panel, metric: str) -> list[Curve]:
    return [one for one in panel.content if isinstance(one, Curve) and one.metric == metric]


def _on_depth(drawing: Drawing) -> pd.DataFrame:
    """The rows of one model with their depth."""
    last = max(1, int(drawing.rows[drawing.x].max()))
    return drawing.rows.assign(depth=drawing.rows[drawing.x] / last)
