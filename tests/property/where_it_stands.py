"""The smallest study there is: one pass, and in its table where everything stands in every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

import mechicl as mi
from mechicl.studies.drawing import Drawing, Panel, bars
from mechicl.studies.summary import mean_with_interval


@dataclass(frozen=True)
class WhereItStands(mi.Study):
    """A row per prompt: its text, its tokens, the characters and the part of each, and the label probabilities."""

    name = "where-it-stands"
    title = "Where it stands"
    source = "mechicl's own tests"
    claim = "Positions cover exactly what was written."
    no_paper_protocol = "there is no paper"

    def measure(self, model: Any, prompts: Any, condition: Any, *, batch_size: int) -> pd.DataFrame:
        run = mi.run(model, prompts, batch_size=batch_size)
        return pd.DataFrame({
            "prompt": range(len(prompts)),
            "string": [prompt.string for prompt in prompts],
            "tokens": [list(prompt.tokens) for prompt in prompts],
            "start": [[start for start, _ in prompt.offsets] for prompt in prompts],
            "stop": [[stop for _, stop in prompt.offsets] for prompt in prompts],
            "part": [parts(prompt) for prompt in prompts],
            "anchors": [list(prompt.anchors) for prompt in prompts],
            "shown": [list(prompt.anchor_classes) for prompt in prompts],
            "rows": [[*prompt.ids.demonstrations, prompt.ids.query] for prompt in prompts],
            "target": [prompt.target for prompt in prompts],
            "gold": prompts.gold.tolist(),
            "words": [list(prompt.label_words) for prompt in prompts],
            "label_probs": run.label_probs.tolist(),
        })  # fmt: skip

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        rows = table.assign(value=table["label_probs"].map(max))
        return mean_with_interval(rows, "value", ["model", "task", "shots"]).assign(metric="largest probability")

    def drawing(self, result: Any) -> Drawing:
        summary = result.summary()
        return Drawing(summary, [Panel("", [bars(summary, summary["task"], "#888888")])], hover="closest")

    def finding(self, result: Any) -> str:
        return f"{len(result.table)} prompts."


def parts(prompt: Any) -> list[str]:
    """For each token the part of the prompt that claims it: "text 0", "label 0", "template 0", "text", "template"."""
    claimed: list[list[str]] = [[] for _ in prompt.tokens]
    for number, shown in enumerate(prompt.demonstrations):
        for part in ("text", "label", "template"):
            for position in getattr(shown, part):
                claimed[position].append(f"{part} {number}")
    for position in prompt.query_text:
        claimed[position].append("text")
    return [", ".join(claims) if claims else "template" for claims in claimed]
