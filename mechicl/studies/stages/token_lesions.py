"""Which predictions a lesion changes (section 4.1, token by token; an extension).

The paper gives one mean per layer. Behind it stand predictions that a layer was needed for and many that it was not;
here the KL to the intact model is told apart by the token at which the prediction is made:

- by *place in its word*: where early layers put words together, leaving one out should hurt most at the last token of a
  word of several, and less where a word is a single token;
- by its *position* in the sequence: what needs a long context comes late;
- by the intact model's own *entropy*: whether a layer is needed for what the model is sure of, or for the rest.

The first tokens of the text are drawn one by one, layer by layer. There is no `protocol="paper"`: the authors
write such rows, with loss and KL of different positions beside each other, and evaluate none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool
from torch import Tensor

from mechicl.corpora import TokenBatch, TokenCorpus, pieces_of_ended_words, pieces_so_far
from mechicl.declared import Switch
from mechicl.engines.comparison import Compared
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.figures import panels, plain
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.results import Result
from mechicl.studies.stages.drawing import titled, where
from mechicl.studies.stages.lesions import Lesions, scored_positions
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study

SORTS = {"word": "where in a word", "position": "position", "entropy": "intact entropy"}
WORDS = ("single-token word", "first token of a word", "inner token of a word", "last token of a word", "no word")
_BITS = (0, 1, 2, 4, 8)
_SHOWN = 24
"""Tokens of the first sequence that are kept one by one."""
WholeLesion = Literal["drop", "swap", "attention", "mlp", "replace"]


@dataclass(frozen=True)
class TokenLesions(Study):
    """KL and agreement, by the token at which a prediction is made: a row per layer, sequence and group of tokens.

    KL(intact || lesioned) in nats and agreement as a share, means over a group's positions; and, of the first
    sequence's first tokens, a row per layer and token (`by` is "token").
    """

    kind: Annotated[WholeLesion, Switch("What is done to each layer.")] = "drop"

    name = "token-lesions"
    title = "Which predictions a lesion changes"
    shows = "Which predictions a lesion changes: by place in the word, position and entropy."
    source = "Stages of Inference, section 4.1; by token, a test of our own"
    claim = "Early layers put tokens together to words, and middle layers can be left out."
    reads = "text"
    no_paper_protocol = "the authors evaluate no lesion token by token"
    batch_size = 4

    def passes(self, n_layers: int) -> float:
        return 1 + n_layers

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = Lesions(kinds=(self.kind,)).lesions(hooked(model).sizes.n_layers)
        if not chosen:
            raise InputError(f"{hooked(model).name} has one layer: too few for {self.kind}.")
        layers = [layer for _, layer, _ in chosen]
        tables: list[pd.DataFrame] = []
        for indices, batch in corpus.batches(batch_size):
            lesions = [lesion for *_, lesion in chosen]
            compared = lesion_sweep(model, batch.tokens, lesions, lengths=batch.lengths, top_k=0)
            for by, groups in token_groups(compared, batch).items():
                for name, at in groups.items():
                    tables.append(_means(compared, at, indices, layers).assign(by=by, group=name))
            if 0 in indices:
                tables.append(_one_by_one(compared, indices.index(0), layers, corpus.tokenizer))
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means of each group: model, by, group, metric (kl in nats, agreement), layer, mean, low, high, n, seeds."""
        weights = dict.fromkeys(("kl", "agreement"), "positions")
        return weighted_summary(table[table["by"] != "token"], weights, ["model", "by", "group"], "layer")

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        kl = where(summary, metric="kl")
        figure = panels([*(f"by {name}" for name in SORTS.values()), "the first tokens"], common=False)
        for column, by in enumerate(SORTS, start=1):
            rows = where(kl, by=by)
            _add_map(figure, rows, sorted(rows["group"].unique(), key=_order), kl["mean"], column)
        tokens = where(result.table, by="token", sequence=0)
        rows = tokens.assign(mean=tokens["kl"], low=tokens["kl"], high=tokens["kl"])
        _add_map(figure, rows, list(rows["group"].unique()), kl["mean"], len(SORTS) + 1)
        told = f"{self.source}; colour: KL to the intact model (nats) at the tokens read; intervals on hover"
        titled(figure, self, summary, told, about=f" ({self.kind})")
        return figure.update_layout(hovermode="closest")

    def finding(self, result: Result) -> str:
        kl = result.summary().query("metric == 'kl'").groupby(["by", "group", "layer"])["mean"].mean()
        words = kl["word"].unstack("layer")
        names = [name for name in WORDS if name in words.index]
        half = words.columns[len(words.columns) // 2 :]
        early = ", ".join(f"{name} {words.loc[name].iloc[0]:.2f}" for name in names)
        late = ", ".join(f"{name} {words.loc[name, half].mean():.3f}" for name in names)
        sure = kl["entropy"].unstack("layer")[half].mean(axis=1)
        bits = ", ".join(f"{name} {sure[name]:.3f}" for name in sorted(sure.index, key=_order))
        return (
            f"KL (nats) with layer {words.columns[0]} lesioned ({self.kind}), by where in a word the prediction is "
            f"made: {early}; mean of the later half of the layers: {late}. By the intact model's entropy, later half: "
            f"{bits}."
        )


def token_groups(compared: Compared, batch: TokenBatch) -> dict[str, dict[str, Bool[Tensor, "batch pos"]]]:
    """Positions of each group, by place in the word (where words are known), by position and by intact entropy.

    Of every sort each position whose prediction counts is in one group.
    """
    counted = scored_positions(compared, "corrected")[0]
    found: dict[str, dict[str, Tensor]] = {}
    if batch.words is not None:
        piece, ended = pieces_so_far(batch.words), pieces_of_ended_words(batch.words)
        places = (ended == 1, (piece == 1) & (ended == 0), (piece > 1) & (ended == 0), ended > 1, piece == 0)
        found["word"] = dict(zip(WORDS, places, strict=True))
    position = torch.arange(compared.tokens.shape[1]).expand(counted.shape)
    edges = [4**power for power in range(8) if 4**power < counted.shape[1]]
    found["position"] = {f"{low}-{high - 1}": (position >= low) & (position < high) for low, high in
                         pairwise((*edges, 4 * edges[-1]))}  # fmt: skip
    entropy = compared.base_entropy
    found["entropy"] = {f"{low}-{high} bits": (entropy >= low) & (entropy < high) for low, high in pairwise(_BITS)}
    found["entropy"][f"{_BITS[-1]} bits or more"] = entropy >= _BITS[-1]
    return {by: {name: at & counted for name, at in groups.items()} for by, groups in found.items()}


def _means(compared: Compared, at: Tensor, indices: Sequence[int], layers: Sequence[int]) -> pd.DataFrame:
    """KL and agreement over some positions: a row per lesion and sequence that has any."""
    n = at.sum(1)
    means = {
        name: (torch.where(at, values, 0).double().sum(-1) / n.clamp(min=1))[:, n > 0]
        for name, values in (("kl", compared.kl), ("agreement", compared.agreement))
    }
    rows = torch.tensor(indices)[n > 0]
    return pd.DataFrame(
        {
            "layer": torch.tensor(layers).repeat_interleave(len(rows)), "sequence": rows.repeat(len(layers)),
            "positions": n[n > 0].repeat(len(layers)), **{name: value.flatten() for name, value in means.items()},
        }
    )  # fmt: skip


def _one_by_one(compared: Compared, row: int, layers: Sequence[int], tokenizer: Any) -> pd.DataFrame:
    """The first predictions of one sequence, a row per lesion and token, which `group` spells."""
    tables = []
    for position in range(1, min(_SHOWN + 1, int(compared.lengths[row]))):
        text = token_text(tokenizer, int(compared.tokens[row, position]))
        values = {"kl": compared.kl[:, row, position], "agreement": compared.agreement[:, row, position]}
        facts = {"sequence": 0, "positions": 1, "by": "token", "group": f"{position} {text!r}"}
        tables.append(pd.DataFrame({"layer": layers, **values, **facts}))
    return pd.concat(tables)


def _order(group: str) -> float:
    """Groups in their natural order: as listed, or by the number that they begin with."""
    return WORDS.index(group) if group in WORDS else float(group.split("-")[0].split()[0])


def _add_map(figure: go.Figure, rows: pd.DataFrame, groups: list[str], scale: pd.Series[float], column: int) -> None:
    """Layers across, groups down; colour is the logarithm of the mean, on one scale for all panels."""
    mean, low, high = (
        rows.pivot(index="group", columns="layer", values=name).loc[groups] for name in ("mean", "low", "high")
    )
    bounds = [float(np.log10(max(edge, 1e-6))) for edge in (scale.min(), scale.max())]
    ticks = [step * 10.0**power for power in range(-6, 3) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if bounds[0] <= np.log10(tick) <= bounds[1]]
    figure.add_trace(
        go.Heatmap(
            z=np.log10(mean.to_numpy().clip(1e-6)), x=mean.columns, y=[plain(name) for name in groups],
            zmin=bounds[0], zmax=bounds[1], colorscale="Viridis", showscale=column > len(SORTS),
            colorbar={"tickvals": np.log10(ticks), "ticktext": [f"{tick:g}" for tick in ticks]},
            customdata=np.stack([mean, low, high], -1),
            hovertemplate="%{y}, layer %{x}: %{customdata[0]:.4f} [%{customdata[1]:.4f}, %{customdata[2]:.4f}]"
            "<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip
    # names of tokens such as "1 '='" would be taken for numbers
    figure.update_yaxes(type="category", autorange="reversed", tickfont={"size": 10}, row=1, col=column)
