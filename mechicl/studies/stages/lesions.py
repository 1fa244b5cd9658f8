"""Layer lesions (section 4.1, Fig. 2 and 3; layer repeat section 5.4, Fig. 11 and 22).

The paper leaves out each layer in turn (drop), or runs two neighbours in the other order (swap), and compares the
predictions with the intact model's: KL(intact || lesioned), the share of positions with the same most probable token
(its "relative accuracy"), and entropy. First and last layers matter, middle layers hardly. Beyond the paper's code we
also leave out attention or MLPs alone, put a neighbour in a layer's place, and repeat windows of layers.

Positions are all but the prediction from position 0 (BOS); means weigh every token the same, and the band comes from
resampling whole sequences, because tokens of a text are not independent.

The authors pair the loss at position t with the KL at t + 1, and call two tokens the same when they decode to the
same string, so that different fragments of bytes agree (`protocol="paper"`). `"corrected"` aligns all measures, and
compares token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.engines.comparison import Compared
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, add_curve, panels
from mechicl.hooks import Patch
from mechicl.models import hooked
from mechicl.patches.lesions import Drop, DropAttention, DropMLP, Repeat, Replace, Swap
from mechicl.results import Result
from mechicl.studies.stages.drawing import titled, where
from mechicl.studies.stages.repeats import late_windows, told
from mechicl.studies.stages.sequences import SequenceMeans, weighted_summary
from mechicl.studies.study import Condition, Protocol, Study
from mechicl.studies.summary import TEXT_BAND

LesionKind = Literal["drop", "swap", "attention", "mlp", "replace", "repeat"]
WEIGHTS = {
    "kl": "positions", "agreement": "positions", "entropy_difference": "positions", "loss_difference": "targets",
    "accuracy": "targets", "accuracy_retained": "hits", "top_10_overlap": "positions", "entropy": "positions",
    "base_entropy": "positions",
}  # fmt: skip
"""What each metric's mean over sequences is weighted by."""
_COLOURS = {"drop": BLUE, "swap": VERMILION, "attention": GREEN, "mlp": ORANGE, "replace": PURPLE}
_NAMES = {"attention": "drop attention", "mlp": "drop MLP", "replace": "replace by the next layer"}
_PANELS = {"kl": "KL to the intact model (nats)", "agreement": "same most probable token",
           "entropy_difference": "entropy, lesioned − intact (bits)"}  # fmt: skip
_WINDOWS = "entropy with a window of layers repeated (bits)"


@dataclass(frozen=True)
class Lesions(Study):
    """Every layer dropped, swapped with the next, and so on: a row per lesion and sequence.

    KL and losses in nats, agreement as a share, entropies in bits.
    """

    kinds: Annotated[tuple[LesionKind, ...], Switch("What is done to each layer.")] = ("drop", "swap")
    windows: Annotated[tuple[int, ...], Switch("Lengths of repeated windows.", min=1)] = (3, 5)

    name = "layer-lesions"
    title = "Layer lesions"
    shows = "Predictions with each layer dropped, swapped with the next, replaced or repeated."
    source = "Stages of Inference, section 4.1, Fig. 2 and 3; section 5.4"
    claim = (
        "Dropping or swapping a middle layer leaves 72-95 % of the most probable tokens as they were; the first layer, "
        "and in some models the last, cannot be touched. Swapping hurts less than dropping."
    )
    reads = "text"
    batch_size = 4

    def lesions(self, n_layers: int) -> list[tuple[str, int, Patch]]:
        """(kind, layer, lesion) for every lesion that is measured; a window's layer is its first."""
        each = range(n_layers)
        made: dict[str, list[tuple[str, int, Patch]]] = {
            "drop": [("drop", i, Drop(i)) for i in each],
            "swap": [("swap", i, Swap(i)) for i in each[:-1]],
            "attention": [("attention", i, DropAttention(i)) for i in each],
            "mlp": [("mlp", i, DropMLP(i)) for i in each],
            "replace": [("replace", i, Replace(i, i + 1)) for i in each[:-1]],
            "repeat": [
                (f"repeat {length}", start, Repeat(start, length))
                for length in self.windows
                for start in range(n_layers - length + 1)
            ],
        }
        return [lesion for kind in self.kinds for lesion in made[kind]]

    def passes(self, n_layers: int) -> float:
        return 1 + len(self.lesions(n_layers))  # half of the blocks each, and logits to compare

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net = hooked(model)
        chosen = self.lesions(net.sizes.n_layers)
        if not chosen:
            raise InputError(f"{net.name} has {net.sizes.n_layers} layers: too few for {', '.join(self.kinds)}.")
        facts = [{"kind": kind, "layer": layer} for kind, layer, _ in chosen]
        return self.swept(model, corpus, [lesion for *_, lesion in chosen], facts, batch_size)

    def swept(
        self, model: Any, corpus: TokenCorpus, lesions: Sequence[Patch], facts: Sequence[Mapping[str, Any]], size: int
    ) -> pd.DataFrame:  # fmt: skip
        """A row per lesion and sequence, with what is to be said of the lesion; `size` sequences per pass."""
        tables = []
        for indices, batch in corpus.batches(size):
            compared = lesion_sweep(model, batch.tokens, lesions, lengths=batch.lengths)
            tables += self.means(compared, corpus.tokenizer).tables(indices, facts)
        return pd.concat(tables, ignore_index=True)

    def means(self, compared: Compared, tokenizer: Any) -> SequenceMeans:
        """Means over each sequence's positions, as the protocol takes them."""
        predicting, with_target = scored_positions(compared, self.protocol)
        same = same_string(compared, tokenizer) if self.protocol == "paper" else compared.agreement
        names = ("base_entropy", "base_loss", "base_correct")
        entropy, loss, correct = (getattr(compared, name).expand_as(compared.kl) for name in names)
        means = SequenceMeans()
        means.add(predicting, "positions", kl=compared.kl, agreement=same, entropy=compared.entropy,
                  top_10_overlap=compared.top_k_overlap, base_entropy=entropy)  # fmt: skip
        means.add(with_target, "targets", loss=compared.loss, correct=compared.correct, base_loss=loss,
                  base_correct=correct)  # fmt: skip
        return means

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mean of each metric per lesion: model, kind, metric, layer, mean, low, high, n (sequences), seeds.

        KL and losses in nats, entropies in bits; `accuracy_retained` is the lesioned model's accuracy on the true next
        token over the intact model's.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            kept, hits = table["correct"] / table["base_correct"], table["base_correct"] * table["targets"]
        measured = with_differences(table).assign(accuracy=table["correct"], accuracy_retained=kept, hits=hits)
        return weighted_summary(measured, WEIGHTS, ["model", "kind"], "layer")

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        kinds = list(dict.fromkeys(summary["kind"]))
        repeats = [kind for kind in kinds if kind.startswith("repeat")]
        colours = _COLOURS | {kind: (GREY, SKY, INK)[place % 3] for place, kind in enumerate(repeats)}
        shown = dict(_PANELS) | ({"entropy": _WINDOWS} if repeats else {})
        if repeats == kinds:
            del shown["entropy_difference"]
        figure = panels(list(shown.values()), common=False)
        for column, metric in enumerate(shown, start=1):
            in_panel = {"entropy": repeats, "entropy_difference": [kind for kind in kinds if kind not in repeats]}
            for kind in in_panel.get(metric, kinds):
                add_curve(
                    figure, where(summary, metric=metric, kind=kind), x="layer", name=_NAMES.get(kind, kind),
                    colour=colours[kind], legend=column == 1, column=column,
                )  # fmt: skip
        if repeats:
            base = where(summary, metric="base_entropy", kind=repeats[0])
            figure.add_hline(
                base["mean"].iloc[0], line={"dash": "dot", "color": INK}, row=1, col=len(shown),
                annotation_text="intact", annotation_position="bottom right",
            )  # fmt: skip
            figure.update_xaxes(title_text="first layer of the window", col=len(shown))
        figure.update_yaxes(range=[0, 1.02], col=2)
        return titled(figure, self, summary, f"{self.source}; protocol {self.protocol}; {TEXT_BAND}")

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for kind, rows in where(summary, metric="agreement").groupby("kind", sort=False):
            n_layers = int(rows["layer"].max()) + _reach(str(kind))
            middle = rows[rows["layer"].between(n_layers // 4, n_layers - 1 - n_layers // 4)]["mean"].mean()
            first = rows[rows["layer"] == 0]["mean"].item()
            parts.append(
                f"{kind}: {first:.0%} in layer 0" + ("" if np.isnan(middle) else f", {middle:.0%} in the middle half")
            )
        return "Most probable tokens that stay: " + "; ".join(parts) + "." + "".join(map(told, late_windows(summary)))


def with_differences(table: pd.DataFrame) -> pd.DataFrame:
    """A table of lesions with what they add to entropy (bits) and loss (nats)."""
    entropy, loss = (table[name] - table[f"base_{name}"] for name in ("entropy", "loss"))
    return table.assign(entropy_difference=entropy, loss_difference=loss)


def _reach(kind: str) -> int:
    """Layers that a lesion takes up."""
    return int(kind.split()[1]) if kind.startswith("repeat") else 2 if kind in ("swap", "replace") else 1


def scored_positions(
    compared: Compared, protocol: Protocol
) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Positions whose prediction counts, and those whose loss counts.

    Predictions: all but from position 0. Losses: the same, as far as they have a next token; in the authors' code
    also the loss from position 0.
    """
    position = torch.arange(compared.tokens.shape[1])
    real = position < compared.lengths[:, None]
    predicting = real & (position > 0)
    with_target = (real if protocol == "paper" else predicting) & (position < compared.lengths[:, None] - 1)
    return predicting, with_target


def same_string(compared: Compared, tokenizer: Any) -> Float[Tensor, "lesion batch pos"]:
    """The authors' agreement: 1 where the two most probable tokens decode to the same string."""
    ids = sorted({*compared.top_token.flatten().tolist(), *compared.base_top_token.flatten().tolist()} - {-1})
    strings = [tokenizer.decode([i]) for i in ids]
    number = {string: n for n, string in enumerate(set(strings))}
    table = torch.full((max(ids) + 2,), -1)  # the last entry is that of -1, where there is no token
    table[ids] = torch.tensor([number[string] for string in strings])
    return (table[compared.top_token] == table[compared.base_top_token]).float()
