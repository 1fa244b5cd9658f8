"""A picture of the information flow in one prompt (section 1, Fig. 1).

The paper illustrates its idea with the edges of a single prompt: in a shallow layer they lead into the label words, in
a deep layer from the label words to the target. The picture shows saliency, not attention, because the sink at the
first token would dominate the latter. It is an example, selected by index, not evidence: `information-flow` decides the
claims.
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
from mechicl.studies.drawing import Drawing
from mechicl.studies.label_words.saliency_map import LEGEND, map_height, map_panel, saliency_map, texts_and_roles
from mechicl.studies.study import Condition, Study

_SHOWN = 10
"""Number of edges listed per layer, strongest first."""
_MAP = ["model", "task", "seed", "layer"]


@dataclass(frozen=True)
class OnePrompt(Study):
    """A row per layer and token of the prompt: its text, its role (w, p, q or none), and its edges' saliency.

    There is one value per token of the prompt, 0 from its own position on.
    """

    prompt: Annotated[int, Switch("Index of the prompt, from 0.", min=0)] = 0
    layers: Annotated[
        tuple[int, ...] | None,
        Switch("Layers to draw; default: at one quarter and three quarters of the depth.", min=0),
    ] = None
    head_reduce: Annotated[
        HeadReduce,
        Switch("How saliency is summed over heads: abs_of_sum (the authors' code) or sum_of_abs (footnote 3)."),
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
        maps = saliency_map(model, prompt, layers, head_reduce=self.head_reduce).tril(-1).double().numpy()
        texts, roles = texts_and_roles(prompt)
        tokens = pd.DataFrame({"prompt": self.prompt, "token": range(len(prompt)), "text": texts, "role": roles})
        rows = [tokens.assign(layer=layer, saliency=list(edges)) for layer, edges in zip(layers, maps, strict=True)]
        return pd.concat(rows, ignore_index=True)

    def remarks(self, result: Result, rows: pd.DataFrame) -> list[str]:
        """No remarks: the finding itself says that this is one prompt."""
        return []

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """The ten strongest edges of each layer: model, task, seed, layer, both tokens and roles, metric, mean, n.

        `mean` is the edge's saliency as a share of the layer's largest; `low` and `high` are NaN for a single prompt.
        """
        parts = []
        for _, rows in table.groupby(_MAP, sort=False, dropna=False):
            edges = np.stack(rows["saliency"].to_list())
            top = np.argsort(-edges, axis=None)[:_SHOWN]
            ends = dict(zip(("reader", "read"), np.unravel_index(top, edges.shape), strict=True))
            named = {
                f"{end}_{what}": rows[what].to_numpy()[at] for end, at in ends.items() for what in ("text", "role")
            }
            shares = edges.flat[top] / max(edges.max(), 1e-30)
            parts.append(pd.DataFrame({**rows.iloc[0][_MAP], **named, "metric": "saliency", "mean": shares}))
        return pd.concat(parts, ignore_index=True).assign(low=np.nan, high=np.nan, n=1)

    def finding(self, result: Result) -> str:
        return f"{self._edges(result)[0]} Single prompts are illustrations."

    def details(self, result: Result) -> list[str]:
        return self._edges(result)[1:]

    def _edges(self, result: Result) -> list[str]:
        """How many of the strongest edges involve label words, for each task, seed and layer."""
        top, told = result.summary(), []
        read = top["reader_role"].where(top["reader_role"] != "q", top["read_role"] + " to q")
        by = [top[name] for name in ("task", "seed", "layer")]
        for (task, seed, layer), of_layer in read.groupby(by, sort=False, dropna=False):
            into, out = ((of_layer == which).sum() for which in ("p", "p to q"))
            told.append(
                f"Of the {len(of_layer)} strongest edges in layer {layer} ({task}, seed {seed}), {into} lead into "
                f"label words and {out} from them to the target."
            )
        return told

    def drawing(self, result: Result) -> Drawing:
        panels = [
            map_panel(
                f"{task}, seed {seed}: layer {layer}", np.stack(rows["saliency"].to_list()), rows["text"], rows["role"]
            )
            for (_, task, seed, layer), rows in result.table.groupby(_MAP, sort=False, dropna=False)
        ]
        longest = int(result.table["token"].max()) + 1
        return Drawing(
            result.table[:0], panels, x="", note=LEGEND, height=map_height(longest), hover="closest",
            widths=(1.0,) * result.table["layer"].nunique(),
        )  # fmt: skip
