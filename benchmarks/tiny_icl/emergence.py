"""What emerges while tiny-icl is trained, by step: accuracy, gathering, reading, and signatures of the stages.

    python -m benchmarks.tiny_icl.emergence DIR/steps docs/pages/emergence.png

`DIR` is the folder of a training (`benchmarks.tiny_icl.train`). Accuracy and enrichment are those of held-out prompts
of four classes, one demonstration each; signatures are those of fresh running text. The table lies next to the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

import mechicl as mi
from benchmarks.tiny_icl.export import from_checkpoint
from mechicl.figures.export import images
from mechicl.shipped.model import to_hooked, with_tokenizer
from mechicl.studies.drawing import Drawing, Panel, draw

SAMPLES, SEED, TOKENS = 64, 42, 2_000
_BY_LAYER = {
    "gathering": ("gathering of label words, log10 of times an average token", True),
    "reading": ("reading of label words, log10 of times an average token", True),
    "lens KL": ("KL(final ‖ lens) of the residual before the layer, nats", False),
    "local attention": ("attention to the previous five tokens, share", False),
}
"""The title of each map, and whether it is on a log scale."""


def models(steps: Path) -> Iterator[tuple[int, Any]]:
    """Every exported step, in order, as a HookedTransformer."""
    folders = {int(folder.name.removeprefix("step")): folder for folder in steps.glob("step*")}
    for step, folder in sorted(folders.items()):
        network = from_checkpoint(folder / "model.safetensors", prefix="")
        yield step, with_tokenizer(to_hooked(network.sizes.as_dict(), network.state_dict()))


def measured(step: int, model: Any) -> pd.DataFrame:
    """A row per measure and layer of one step; accuracy has layer -1."""
    prompts = mi.load_task("tiny-topics-4").prompts(model.tokenizer, samples=SAMPLES, shots=1, seed=SEED)
    corpus = mi.load_corpus(model.tokenizer, "tiny-icl", tokens=TOKENS, n_ctx=128, prepend_bos=True)
    enrichment, lens, local = mi.probes.Enrichment(), mi.probes.LogitLens("corrected"), mi.probes.LocalAttention()
    out = mi.run(model, prompts, probes=[enrichment], progress=None)
    right = (out.label_probs.argmax(-1) == prompts.gold).double().mean().item()
    label_words = list(out[enrichment].along("set")).index("label words")
    of_text = mi.run(model, corpus, probes=[lens, local], progress=None)
    curves = {
        kind: out[enrichment][kind][:, :, label_words].double().mean(0).numpy() for kind in ("gathering", "reading")
    }
    curves["lens KL"] = of_text[lens].frame().groupby("point")["kl"].mean().to_numpy()[:-1]
    curves["local attention"] = of_text[local].frame().groupby("layer")["mass_5"].mean().to_numpy()
    rows = [("accuracy", -1, right)]
    rows += [(name, layer, float(value)) for name, curve in curves.items() for layer, value in enumerate(curve)]
    return pd.DataFrame(rows, columns=["measure", "layer", "value"]).assign(step=step)


def picture(table: pd.DataFrame) -> go.Figure:
    """Accuracy over steps, and a map of layer by step for each other measure."""
    accuracy = table[table["measure"] == "accuracy"]
    line = go.Scatter(x=accuracy["step"], y=accuracy["value"], mode="lines+markers", name="accuracy", showlegend=False)
    panels = [Panel("accuracy (chance 0.25)", [line], {"title_text": "step"}, {"range": [0, 1.02]})]
    for name, (title, log) in _BY_LAYER.items():
        grid = table[table["measure"] == name].pivot(index="layer", columns="step", values="value")
        shown = np.log10(grid.where(grid > 0)) if log else grid  # nothing gathers in the last layer
        bar = {"title": {"text": "log10" if log else "mean", "side": "right"}}
        heat = go.Heatmap(x=list(grid.columns), y=list(grid.index), z=shown, colorscale="Viridis", colorbar=bar)
        panels.append(Panel(title, [heat], {"title_text": "step"}, {"title_text": "layer", "dtick": 1}))
    drawing = Drawing(table.iloc[:0], panels, x="", widths=(1.0,), height=150)
    return draw(drawing, title="tiny-icl over its training", subtitle=f"{SAMPLES} prompts, {TOKENS:,} tokens of text")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    table = pd.concat([measured(step, model) for step, model in models(given.steps)], ignore_index=True)
    table.to_csv(given.picture.with_suffix(".csv"), index=False)
    (content,) = images([(picture(table), "png", "page")])
    given.picture.write_bytes(content)
    print(table.pivot(index="step", columns=["measure", "layer"], values="value").round(3).to_string())


if __name__ == "__main__":
    main()
