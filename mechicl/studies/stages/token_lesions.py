"""Which predictions an ablation changes (section 4.1, token by token; an extension).

The paper gives one mean per layer. Some predictions need a layer, and many do not; here we split the KL to the clean
model by the token at which the prediction is made:

- by *place in its word*: if early layers merge tokens into words, dropping one should hurt most at the last token of a
  multi-token word, and less at single-token words;
- by its *position* in the sequence: predictions that need a long context come late;
- by the clean model's *entropy*: does the model need a layer for confident predictions, or for the rest?

The figure also shows the first tokens of the text one by one, layer by layer. There is no `protocol="paper"`: the
authors save such rows, with loss and KL of different positions side by side, but do not evaluate them.
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
from mechicl.figures import plain
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, where
from mechicl.studies.stages.lesions import IN_WORDS, Lesions, Where, scored_positions
from mechicl.studies.stages.sequences import sequence_means, weighted_summary
from mechicl.studies.study import Condition, Study

SORTS = {"word": "where in a word", "position": "position", "entropy": "clean entropy"}
_SINGLE, _LAST = "single-token word", "last token of a word"
WORDS = (_SINGLE, "first token of a word", "inner token of a word", _LAST, "no word")
_BITS = (0, 1, 2, 4, 8)
_SHOWN = 24
"""Number of tokens of the first sequence that are kept one by one."""
WholeLesion = Literal["drop", "swap", "attention", "mlp", "replace"]


@dataclass(frozen=True)
class TokenLesions(Study):
    """KL and agreement, by the token at which a prediction is made: a row per layer, sequence and group of tokens.

    KL(clean || ablated) in nats and agreement as a share, averaged over a group's positions; and, for the first
    sequence's first tokens, a row per layer and token (`by` is "token").
    """

    kind: Annotated[WholeLesion, Switch("Ablation of each layer.")] = "drop"
    positions: Annotated[
        Where, Switch("Where layers (attention, MLPs) are dropped: at all positions, at position 0 alone, elsewhere.")
    ] = "all"

    name = "token-lesions"
    title = "Which predictions a layer ablation changes"
    shows = "Which predictions a layer ablation changes: by place in the word, position and entropy."
    source = "Stages of Inference, section 4.1; by token, a test of our own"
    claim = "Early layers merge tokens into words, and middle layers can be dropped."
    reads = "text"
    no_paper_protocol = "the authors do not evaluate ablations token by token"
    batch_size = 4
    sweeps = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions != "all" and self.kind in ("swap", "replace"):
            raise InputError(f"{self.kind} moves whole layers; leave out positions={self.positions!r}, or drop layers.")

    @property
    def _ablation(self) -> str:
        return f"{self.kind}{IN_WORDS[self.positions]}"

    def passes(self, n_layers: int) -> float:
        return 1 + n_layers

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = Lesions(kinds=(self.kind,), positions=(self.positions,)).lesions(hooked(model).sizes.n_layers)
        if not chosen:
            raise InputError(f"{hooked(model).name} has one layer: too few for {self.kind}.")
        layers = pd.DataFrame({"layer": [layer for _, layer, _ in chosen]})
        lesions = [lesion for *_, lesion in chosen]
        tables: list[pd.DataFrame] = []
        for indices, batch in corpus.batches(batch_size):
            compared = lesion_sweep(model, batch.tokens, lesions, lengths=batch.lengths, top_k=0)
            for by, groups in token_groups(compared, batch).items():
                for name, positions in groups.items():
                    if positions.any():
                        tables.append(_means(compared, positions, indices, layers).assign(by=by, group=name))
            if 0 in indices:
                tables += _one_by_one(compared, indices.index(0), layers, corpus.tokenizer)
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means of each group: model, by, group, metric (kl in nats, agreement), layer, mean, low, high, n, seeds."""
        weights = dict.fromkeys(("kl", "agreement"), "positions")
        return weighted_summary(table[table["by"] != "token"], weights, ["model", "by", "group"])

    def drawing(self, result: Result) -> Drawing:
        kl = where(result.summary(), metric="kl")
        maps = {f"by {name}": where(kl, by=by) for by, name in SORTS.items()}
        tokens = where(result.table, by="token", sequence=0)
        maps["the first tokens"] = tokens.assign(mean=tokens["kl"], low=tokens["kl"], high=tokens["kl"])
        panels: list[Panel] = []
        for title, rows in maps.items():
            last = len(panels) == len(SORTS)
            groups = list(rows["group"].unique()) if last else sorted(rows["group"].unique(), key=_order)
            # names of tokens such as "1 '='" would be parsed as numbers
            axis = {"type": "category", "autorange": "reversed", "tickfont_size": 10}
            panels.append(Panel(title, [_map(rows, groups, kl["mean"])], y_axis=axis))
        return Drawing(
            kl, panels, about=f" ({self._ablation})", hover="closest",
            note="colour: KL to the clean model (nats) at the tokens read; intervals on hover",
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        kl = _by_place(result).iloc[:, 0]
        names = [name for name in (_SINGLE, _LAST) if name in kl.index] or [str(kl.index[0])]
        shown = " and ".join(f"{kl[name]:.2f} nats ({name})" for name in names)
        return f"With layer {kl.name} ablated ({self._ablation}), the mean KL of predictions is {shown}."

    def details(self, result: Result) -> list[str]:
        kl = _by_place(result)
        late = kl.iloc[:, len(kl.columns) // 2 :].mean(axis=1)
        parts = [f"{name} {kl.loc[name].iloc[0]:.2f} / {late[name]:.3f}" for name in kl.index]
        return [
            f"KL in nats, for layer {kl.columns[0]} ablated ({self._ablation}) / mean over the later half of layers, "
            f"by place of the prediction: {'; '.join(parts)}."
        ]


def _by_place(result: Result) -> pd.DataFrame:
    """Mean KL by place of the prediction in its word, or in the sequence if words are not known [place, layer]."""
    kl = where(result.summary(), metric="kl")
    by = "word" if (kl["by"] == "word").any() else "position"
    means = where(kl, by=by).groupby(["group", "layer"])["mean"].mean().unstack("layer")
    means = means.loc[sorted(means.index, key=_order)]
    return means if by == "word" else means.rename(index="positions {}".format)


def token_groups(compared: Compared, batch: TokenBatch) -> dict[str, dict[str, Bool[Tensor, "batch pos"]]]:
    """Positions of each group, by place in the word (if words are known), by position and by clean entropy.

    In every division, each position whose prediction counts is in exactly one group.
    """
    counted = scored_positions(compared, "corrected")[0]
    groups: dict[str, dict[str, Tensor]] = {}
    if batch.words is not None:
        piece, ended = pieces_so_far(batch.words), pieces_of_ended_words(batch.words)
        places = (ended == 1, (piece == 1) & (ended == 0), (piece > 1) & (ended == 0), ended > 1, piece == 0)
        groups["word"] = dict(zip(WORDS, places, strict=True))
    position = torch.arange(compared.tokens.shape[1]).expand(counted.shape)
    edges = [4**power for power in range(8) if 4**power < counted.shape[1]]
    groups["position"] = {f"{low}-{high - 1}": (position >= low) & (position < high) for low, high in
                          pairwise((*edges, 4 * edges[-1]))}  # fmt: skip
    entropy = compared.base_entropy
    groups["entropy"] = {f"{low}-{high} bits": (entropy >= low) & (entropy < high) for low, high in pairwise(_BITS)}
    groups["entropy"][f"{_BITS[-1]} bits or more"] = entropy >= _BITS[-1]
    return {by: {name: group & counted for name, group in of_sort.items()} for by, of_sort in groups.items()}


def _means(compared: Compared, positions: Tensor, indices: Sequence[int], layers: pd.DataFrame) -> pd.DataFrame:
    """KL and agreement over some positions: a row per ablation and per sequence that has any of them."""
    some = positions.any(1)
    values = {name: value[:, some] for name, value in _measures(compared).items()}
    sequences = torch.tensor(indices)[some].tolist()
    return sequence_means(layers, sequences, {"positions": (positions[some], values)})


def _measures(compared: Compared) -> dict[str, Tensor]:
    return {"kl": compared.kl, "agreement": compared.agreement}


def _one_by_one(compared: Compared, row: int, layers: pd.DataFrame, tokenizer: Any) -> list[pd.DataFrame]:
    """The first predictions of one sequence: a table per token, spelled in `group`, with a row per ablation."""
    tables = []
    for position in range(1, min(_SHOWN + 1, int(compared.lengths[row]))):
        text = token_text(tokenizer, int(compared.tokens[row, position]))
        values = {name: value[:, row, position].numpy() for name, value in _measures(compared).items()}
        facts: dict[str, Any] = {"sequence": 0, "positions": 1, "by": "token", "group": f"{position} {text!r}"}
        tables.append(layers.assign(**values, **facts))
    return tables


def _order(group: str) -> float:
    """Groups in their natural order: as listed, or by the number that they begin with."""
    return WORDS.index(group) if group in WORDS else float(group.split("-")[0].split()[0])


def _map(rows: pd.DataFrame, groups: list[str], means: pd.Series[float]) -> go.Heatmap:
    """Layers across, groups down; colour is the logarithm of the mean, on one scale for all panels."""
    mean, low, high = (
        rows.pivot(index="group", columns="layer", values=name).loc[groups] for name in ("mean", "low", "high")
    )
    bounds = [float(np.log10(max(edge, 1e-6))) for edge in (means.min(), means.max())]
    ticks = [step * 10.0**power for power in range(-6, 3) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if bounds[0] <= np.log10(tick) <= bounds[1]]
    return go.Heatmap(
        z=np.log10(mean.to_numpy().clip(1e-6)), x=mean.columns, y=[plain(name) for name in groups],
        zmin=bounds[0], zmax=bounds[1], colorscale="Viridis",
        colorbar={"title": {"text": "KL (nats)", "side": "right"}, "tickvals": np.log10(ticks),
                  "ticktext": [f"{tick:g}" for tick in ticks]},
        customdata=np.stack([mean, low, high], -1),
        hovertemplate="%{y}, layer %{x}: %{customdata[0]:.4f} [%{customdata[1]:.4f}, %{customdata[2]:.4f}]"
        "<extra></extra>",
    )  # fmt: skip
