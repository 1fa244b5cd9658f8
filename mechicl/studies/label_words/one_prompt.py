"""The information flow of one prompt, drawn (section 1, Fig. 1).

The paper illustrates its idea by the edges of a single prompt: in a shallow layer they lead into the label words, in a
deep layer from the label words to the target. The picture is saliency, not attention, which the first token's sink
would dominate. It is an example, chosen by its number, and no evidence: `information-flow` decides the claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd

from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.models import hooked
from mechicl.probes.saliency import HeadReduce
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, where
from mechicl.studies.label_words.saliency_map import LEGEND, map_panel, saliency_map, texts_and_roles
from mechicl.studies.study import Condition, Study

_SHOWN = 10
"""Edges of a layer that are listed, the strongest first."""


@dataclass(frozen=True)
class OnePrompt(Study):
    """A row per layer and edge between two tokens of the prompt, with both texts and roles: w, p, q or none."""

    prompt: Annotated[int, Switch("Which of the prompts, counted from 0.", min=0)] = 0
    layers: Annotated[
        tuple[int, ...] | None, Switch("Layers to draw; default: one quarter and three quarters deep.", min=0)
    ] = None
    head_reduce: Annotated[
        HeadReduce, Switch("How heads become one: abs_of_sum (the authors' code) or sum_of_abs (footnote 3).")
    ] = "abs_of_sum"

    name = "one-prompt"
    title = "Information flow in one prompt"
    shows = "The strongest edges of one prompt in a shallow and in a deep layer."
    source = "Label Words are Anchors, section 1, Fig. 1"
    claim = (
        "Label words gather the demonstrations' information in shallow layers, and the target position reads it from "
        "them in deep layers (an illustration)."
    )
    no_paper_protocol = "the paper's picture was drawn by hand"
    gradients = True
    shared_options = {"samples": 1, "seeds": "42"}

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        n_layers = hooked(model).sizes.n_layers
        if self.prompt >= len(prompts):
            raise InputError(f"prompt is {self.prompt}; there are prompts 0 to {len(prompts) - 1}.")
        prompt, layers = prompts[self.prompt], self.layers or tuple(dict.fromkeys((n_layers // 4, 3 * n_layers // 4)))
        maps = saliency_map(model, prompt, layers, head_reduce=self.head_reduce).numpy()
        query, key = np.tril_indices(len(prompt), -1)
        edges = {"reader": query, "read": key}
        named = {f"{end}_{what}": np.array(of)[at] for end, at in edges.items()
                 for what, of in zip(("text", "role"), texts_and_roles(prompt), strict=True)}  # fmt: skip
        rows = [{"prompt": self.prompt, "layer": layer, **edges, **named, "saliency": edges_of[query, key]}
                for layer, edges_of in zip(layers, maps, strict=True)]  # fmt: skip
        return pd.concat(map(pd.DataFrame, rows), ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """The ten strongest edges of each layer: task, seed, layer, both tokens, metric, mean, low, high and n.

        `mean` is the edge's saliency as a share of the layer's largest; of a single prompt there is no interval.
        """
        parts = []
        for _, rows in table.groupby(["model", "task", "seed", "layer"], sort=False, dropna=False):
            top = rows.nlargest(_SHOWN, "saliency")
            parts.append(top.assign(metric="saliency", mean=top["saliency"] / max(top["saliency"].max(), 1e-30)))
        columns = ["model", "task", "seed", "layer", "reader_text", "reader_role", "read_text", "read_role", "metric"]
        return pd.concat(parts, ignore_index=True)[[*columns, "mean"]].assign(low=np.nan, high=np.nan, n=1)

    def finding(self, result: Result) -> str:
        """How many of the strongest edges the label words take part in, beside their share of all edges."""
        told = []
        for (task, layer), rows in result.table.groupby(["task", "layer"], sort=False):
            into = rows["reader_role"] == "p"
            out = (rows["read_role"] == "p") & (rows["reader_role"] == "q")
            top = rows.groupby("seed", dropna=False)["saliency"].nlargest(_SHOWN).index.get_level_values(-1)
            sets = {"lead into label words": into, "from them to the target": out}
            counts = [
                f"{which[top].mean():.0%} {name} (of all edges {which.mean():.1%})" for name, which in sets.items()
            ]
            told.append(f"Of the {_SHOWN} strongest edges in layer {layer} ({task}) {', '.join(counts)}.")
        return " ".join([*told, "This is one prompt, an illustration."])

    def drawing(self, result: Result) -> Drawing:
        panels = []
        for (task, seed, layer), rows in result.table.groupby(["task", "seed", "layer"], sort=False, dropna=False):
            n = int(rows["reader"].max()) + 1
            edges = np.zeros((n, n))
            edges[rows["reader"], rows["read"]] = rows["saliency"]
            ends = pd.concat([
                rows[[end, f"{end}_text", f"{end}_role"]].set_axis(["at", "text", "role"], axis=1)
                for end in ("reader", "read")
            ]).drop_duplicates("at").sort_values("at")  # fmt: skip
            panels.append(map_panel(f"{task}, seed {seed}: layer {layer}", edges, ends["text"], ends["role"]))
        return Drawing(
            where(result.table, layer=-1), panels, x="", widths=(1, 1), note=LEGEND, height=700, hover="closest"
        )
