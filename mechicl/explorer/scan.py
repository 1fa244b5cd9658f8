"""A first look at one prompt, in seconds: its answer, how it forms by layer, and the heads that read label words.

It combines probes in one forward and one backward pass, and one sweep of isolations. A single prompt decides no claim:
the studies do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.doors import door
from mechicl.engines.alone import label_logits_alone
from mechicl.explorer.explorer import check_length, usual_isolation
from mechicl.explorer.given import prompt_of
from mechicl.explorer.kept import lensed
from mechicl.explorer.lens_picture import lens_figure, lens_html, lens_table
from mechicl.explorer.page import plain_page
from mechicl.explorer.tokens import tokens
from mechicl.explorer.views import objective
from mechicl.figures import LABEL_COLOUR, TARGET_COLOUR, TEXT_COLOUR
from mechicl.files.writing import make_folder, write_atomically
from mechicl.hooks import Probe, run
from mechicl.models import Model, hooked
from mechicl.models.tokenizers import token_text, visible
from mechicl.patches import IsolateLabels
from mechicl.probes import Enrichment, HeadEnrichment, LabelLens, LensMap, LensTokens, SaliencyMap
from mechicl.prompts import Prompt
from mechicl.readings import Reading

_HEADS = 8
"""Number of heads listed."""
COLUMNS = {
    "layer": "number of the layer",
    "reading": "reading of label words, times an average token",
    "reading_random": "reading of random text, times an average token",
    "gathering": "gathering of label words, times an average token",
    "gathering_random": "gathering of random text, times an average token",
    "reads_most": "token that gives the target the largest saliency",
    "lens": "most probable next token at the target, by the logit lens after the layer",
    "lens_prob": "its probability",
    "answer_prob": "probability of the clean run's answer after the layer, among the label words, by the logit lens",
    "window": "layers in which label words are isolated together",
    "isolated_prob": "probability of the clean run's answer while label words are isolated in the layer's window",
}
"""Columns of `Scan.frame`, and what they hold."""


@dataclass(frozen=True, repr=False, eq=False)
class Scan:
    """The result of `scan`: `probs` of the label words at q, a table by layer (`frame`), and the heads that read."""

    model: str
    prompt: Prompt
    probs: tuple[float, ...]
    layers: pd.DataFrame
    heads: pd.DataFrame
    """The heads with the largest saliency from label words to the target: layer, head, reading (times an average
    token), saliency (loss per edge).
    """
    lens: pd.DataFrame
    """The logit lens after every layer at label words and at the last tokens, 64 in all: position, token, role, layer,
    guess (the most probable next token), probability (of the final prediction there), kl (nats, final || lens).
    """

    def frame(self) -> pd.DataFrame:
        """A row per layer, with the columns of `COLUMNS`; those about label words only if there are any."""
        return self.layers

    def figure(self) -> go.Figure:
        """`lens` as a heat map, layer by position; cells are coloured by the probability of the final prediction."""
        return lens_figure(self.lens, title=f"Logit lens: {self.model}, {self.prompt.task or 'stored prompt'}")

    @property
    def answer(self) -> str:
        """The most probable label word, or the most probable next token of a free text."""
        return self.prompt.label_words[int(np.argmax(self.probs))]

    def finding(self) -> str:
        """The answer, and its sources in this prompt, in a few sentences."""
        prompt, best = self.prompt, int(np.argmax(self.probs))
        right = "" if prompt.gold is None else ", which is right" if best == prompt.gold else ", which is wrong"
        said = [
            f"The model answers {self.answer!r} (probability {self.probs[best]:.0%} among {len(self.probs)} answers)"
            f"{right}."
        ]
        if "reading" in self.layers:
            n_layers = len(self.layers)
            for what, column in (("The target reads label words", "reading"), ("Label words gather", "gathering")):
                above = [int((self.layers[name] >= 2).sum()) for name in (column, f"{column}_random")]
                said.append(
                    f"{what} at least twice as much as an average token in {above[0]} of {n_layers} layers (random "
                    f"text: {above[1]})."
                )
            isolated = self.layers["isolated_prob"]
            said.append(
                f"With label words isolated in one window of layers the answer's probability is {isolated.min():.0%} "
                f"to {isolated.max():.0%}."
            )
        return " ".join([*said, "This is one prompt, an illustration."])

    def __repr__(self) -> str:
        return f"Scan({self.model}, {self.prompt!r}: {self.finding()})"

    def _repr_html_(self) -> str:
        heads = ", ".join(f"L{row.layer}H{row.head} ({row.reading:.3g})" for row in self.heads.itertuples(index=False))
        said = (
            "Heads with the largest saliency from label words to the target (in brackets: reading, times an average "
            "token)"
        )
        reading = f"<p>{said}: {escape(heads)}.</p>" if heads else ""
        return (
            f"<div><h3><bdi>{escape(self.model)}</bdi>, "
            f"<bdi>{escape(self.prompt.task or 'stored prompt')}</bdi>, {len(self.prompt)} tokens</h3>"
            f"<p><bdi>{escape(self.finding())}</bdi></p>{reading}{_bars(self)}"
            f"{lens_html(self.lens)}</div>"
        )

    def save_html(self, path: str | Path) -> Path:
        """Write the card as a page that needs no network; returns its path."""
        path = Path(path)
        make_folder(path.parent)
        body = self._repr_html_() + self.prompt._repr_html_()
        write_atomically(path, plain_page(f"{self.model}: first look", body).encode("utf-8", "replace"))
        return path


@partial(door, kinds=False)
def scan(
    model: Model,
    prompt: Prompt | str | Sequence[Mapping[str, str]],
    *,
    answers: Sequence[str] | None = None,
    prepend_bos: bool = False,
) -> Scan:
    """A first look at one prompt: prediction, enrichment, lens, reading heads and isolation, layer by layer.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        prompt: one prompt of a task, a text, or a conversation; see `explore`, also for `answers` and `prepend_bos`.

    Raises:
        InputError: the prompt is of another tokenizer, scores classes by whole label words, or is not a prompt.
    """
    prompt = prompt_of(model, prompt, answers, prepend_bos, "scan")
    check_length(model, prompt, "scan")
    net, loss = hooked(model), objective(prompt)
    n_layers = net.sizes.n_layers
    saliency, lens, labels, path = (
        SaliencyMap(tuple(range(n_layers)), loss=loss),
        LensTokens((prompt.target,), 1),
        LabelLens(),
        LensMap(tuple(lensed(prompt))),
    )
    of_labels: list[Probe] = []
    if prompt.anchors:
        of_labels = [Enrichment(loss=loss), HeadEnrichment(loss=loss), HeadEnrichment(loss=loss, absolute=True)]
    seen = run(model, prompt, [saliency, lens, labels, path, *of_labels], progress=None)
    best = int(seen.predicted[0])
    to_target = seen[saliency].values[0, :, prompt.target, : prompt.target]
    texts = [token_text(net.tokenizer, token) for token in prompt.tokens]
    table = pd.DataFrame({
        "layer": range(n_layers),
        "reads_most": [texts[place] if float(row.sum()) else "" for row in to_target for place in [int(row.argmax())]]
        if prompt.target else "",
        "lens": [token_text(net.tokenizer, int(token)) for token in seen[lens]["token"][0, 1:, 0, 0]],
        "lens_prob": seen[lens]["probability"][0, 1:, 0, 0].double().numpy(),
        "answer_prob": seen[labels].values[0, 1:].softmax(-1)[:, best].double().numpy(),
    })  # fmt: skip
    heads = pd.DataFrame(columns=["layer", "head", "reading", "saliency"])
    if of_labels:
        enriched, relative, absolute = (seen[probe] for probe in of_labels)
        heads = _reading_heads(relative, absolute)
        table = table.assign(**_enriched(enriched), **_isolated(model, prompt, best))
    return Scan(net.name, prompt, tuple(seen.label_probs[0].tolist()), table, heads,
                lens_table(net, seen[path], tokens(net, prompt)))  # fmt: skip


def _enriched(reading: Reading) -> dict[str, Any]:
    sets = {"": "label words", "_random": "random text"}
    return {
        f"{what}{suffix}": reading[what][0, :, reading.along("set").index(name)].double().numpy()
        for what in ("reading", "gathering")
        for suffix, name in sets.items()
    }


def _isolated(model: Any, prompt: Prompt, best: int) -> dict[str, Any]:
    """Per layer, its window of neighbouring layers, and the answer's probability with label words isolated there."""
    n_layers = hooked(model).sizes.n_layers
    width = usual_isolation(n_layers)
    windows = [range(first, min(first + width, n_layers)) for first in range(0, n_layers, width)]
    probs = label_logits_alone(model, prompt, [IsolateLabels(window) for window in windows]).softmax(-1)[:, best]
    of_layer = [
        (f"{window[0]}-{window[-1]}" if len(window) > 1 else str(window[0]), float(value))
        for window, value in zip(windows, probs, strict=True)
        for _ in window
    ]
    return {"window": [name for name, _ in of_layer], "isolated_prob": [value for _, value in of_layer]}


def _reading_heads(relative: Reading, absolute: Reading) -> pd.DataFrame:
    """The heads with the largest saliency of edges from label words to q, not enrichment, which may hardly matter."""
    table = relative.frame()[["layer", "head", "reading"]].assign(saliency=absolute.frame()["reading"])
    return table.sort_values("saliency", ascending=False, ignore_index=True).head(_HEADS)


_SHOWN = (
    ("reading", "target reads label words", "×", True), ("gathering", "label words gather", "×", True),
    ("reads_most", "target reads most from", "", False), ("lens", "lens", "", False),
    ("answer_prob", "P(answer), lens", "", False), ("isolated_prob", "P(answer), label words isolated", "", False),
)  # fmt: skip


def _bars(scan: Scan) -> str:
    """The table by layer: enrichment as bars on a log scale with random text as a mark, probabilities as bars."""
    table = scan.layers
    shown = [column for column in _SHOWN if column[0] in table]
    head = "".join(f'<th scope="col" style="{_LEFT}">{escape(title)}</th>' for _, title, *_ in shown)
    body = "".join(
        f'<tr><th scope="row">{row["layer"]}</th>{"".join(_cell(row, *column) for column in shown)}</tr>'
        for _, row in table.iterrows()
    )
    times = "Bars: saliency relative to an average token, from 1 to 100 on a log scale; the mark is random text. "
    return (
        f'<div style="overflow-x:auto" tabindex="0" role="region" aria-label="By layer"><table style="{_TABLE}">'
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"<p>{times if 'reading' in table else ''}P(answer): probability of the answer, among the answers.</p>"
    )


_TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal"
_LEFT = "text-align:left;padding:1px 10px"
_WIDTH = 90


def _cell(row: pd.Series[Any], column: str, title: str, unit: str, factor: bool) -> str:
    value = row[column]
    if isinstance(value, str):
        share = f" {row['lens_prob']:.0%}" if column == "lens" else ""
        text = visible(value)
        return f'<td style="{_LEFT}"><bdi>{escape(text)}</bdi>{share}</td>'
    colour = {"reading": TARGET_COLOUR, "gathering": LABEL_COLOUR}.get(column, TEXT_COLOUR)
    part = _of_log(value) if factor else value
    mark = ""
    if factor:
        place = _WIDTH * _of_log(row[f"{column}_random"])
        mark = (
            f'<i style="position:absolute;left:{place:.0f}px;top:-1px;width:2px;height:12px;'
            f'background:currentColor"></i>'
        )
    text = f"{value:.3g} {unit}" if factor else f"{value:.0%}"
    return (
        f'<td style="{_LEFT};white-space:nowrap" title="{escape(title)}: {text}"><span style="display:inline-block;'
        f'position:relative;width:{_WIDTH}px;height:10px;background:#8883"><i style="position:absolute;left:0;top:0;'
        f'height:10px;width:{_WIDTH * part:.0f}px;background:{colour}"></i>{mark}</span> {text}</td>'
    )


def _of_log(value: float) -> float:
    """Position of a factor along a bar: 1 and less at its start, 100 and more at its end."""
    return float(np.clip(np.log10(max(value, 1e-9)) / 2, 0, 1))
