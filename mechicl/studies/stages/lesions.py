"""Layer ablations: drop, swap, replace (section 4.1, Fig. 2 and 3) and repeat (section 5.4, Fig. 11 and 22).

The paper drops each layer in turn, or swaps two neighbours, and compares the predictions with the clean model's:
KL(clean || ablated), the share of positions with the same most probable token (its "relative accuracy"), and entropy.
First and last layers matter, middle layers hardly do. Beyond the paper's code, we also drop attention or MLPs alone,
replace a layer by its neighbour, and repeat windows of layers.

All predictions count except that from position 0 (BOS). Means weight every token equally; intervals resample whole
sequences, because tokens of a text are not independent.

A layer may matter only for what it writes at position 0, where many models make an attention sink that all later tokens
rely on: dropping it then costs a lot, even if it does not process the text. So layers are also dropped at position 0
alone (`bos`), and everywhere else (`rest`), attention and MLPs also at position 0 alone; the authors' protocol does not
separate these.

The authors pair the loss at position t with the KL at t + 1, and count two tokens as the same if they decode to the
same string, so that different byte fragments agree; they clip probabilities to at least 1e-9 before computing
entropies, report the clean loss less the ablated one instead of the added loss, and swap only weights, not properties
that depend on a layer's place (`protocol="paper"`). `"corrected"` aligns all measures, and compares token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.engines.comparison import Compared
from mechicl.engines.swap_weights import SwapWeights
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION
from mechicl.hooks import Patch
from mechicl.metrics.readout import kept_bytes
from mechicl.models import Adapter, hooked
from mechicl.patches.lesions import Drop, DropAttention, DropMLP, Repeat, Replace, Swap
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.lesion_claims import CLAIMED, CLAIMS, length, lesion_evidence
from mechicl.studies.stages.sequences import sequence_means, weighted_summary
from mechicl.studies.study import Protocol
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import AgainstTwins, given

LesionKind = Literal["drop", "swap", "attention", "mlp", "replace", "repeat"]
Where = Literal["all", "bos", "rest"]
IN_WORDS: dict[Where, str] = {"all": "", "bos": " at position 0 alone", "rest": " everywhere but at position 0"}
"""Where layers are dropped, as what follows "dropped"."""
Lesion = tuple[str, int, Patch]
"""Kind, layer and ablation."""
WEIGHTS = {
    "kl": "positions", "agreement": "positions", "entropy_difference": "positions", "loss_difference": "targets",
    "accuracy": "targets", "accuracy_retained": "hits", "top_10_overlap": "positions", "entropy": "positions",
    "base_entropy": "positions",
}  # fmt: skip
"""The weights of each metric's mean over sequences."""
_LEAST = 1e-3
_LOG = {"type": "log", "title_text": f"log; least {_LEAST:g}"}
"""KL spans many orders of magnitude; below this, nothing changes."""
_STYLES: dict[str, tuple[str, str]] = {
    "drop": ("drop", BLUE), "swap": ("swap", VERMILION), "attention": ("drop attention", GREEN),
    "mlp": ("drop MLP", ORANGE), "replace": ("replace by the next layer", PURPLE),
    "drop, bos": ("at position 0 alone", ORANGE), "drop, rest": ("everywhere else", GREEN),
    "attention, bos": ("attention, at position 0 alone", PURPLE), "mlp, bos": ("MLP, at position 0 alone", VERMILION),
    "attention, rest": ("attention, everywhere else", SKY), "mlp, rest": ("MLP, everywhere else", GREY),
}  # fmt: skip


@dataclass(frozen=True)
class Lesions(AgainstTwins):
    """Every layer dropped, swapped with the next, and so on: a row per ablation and sequence.

    The kinds "drop, bos" and "drop, rest" are drops at position 0 alone, and everywhere else; likewise "attention, bos"
    and "mlp, bos".

    KL and losses in nats, agreement as a share, entropies in bits.
    """

    kinds: Annotated[tuple[LesionKind, ...], Switch("Ablations of each layer.")] = ("drop", "swap")
    windows: Annotated[tuple[int, ...], Switch("Lengths of repeated windows.", min=1)] = (3, 5)
    times: Annotated[int, Switch("How many more times each layer of a repeated window runs.", min=1)] = 1
    positions: Annotated[
        tuple[Where, ...],
        Switch("Where layers are dropped: at all positions, at position 0 alone, or elsewhere (whole layers)."),
    ] = ("all", "bos", "rest")

    name = "layer-lesions"
    title = "Layer ablations"
    shows = "Predictions with each layer dropped, swapped with the next, replaced or repeated."
    source = "Stages of Inference, section 4.1, Fig. 2 and 3; section 5.4"
    claim = (
        "Dropping or swapping a middle layer leaves 72-95 % of top-1 predictions unchanged. The first layer, and in "
        "some models the last, is indispensable. Swapping hurts less than dropping."
    )
    claims = CLAIMS
    reads = "text"
    batch_size = 4
    sweeps = True

    def lesions(self, n_layers: int) -> list[Lesion]:
        """(kind, layer, ablation) of every measurement; a window's layer is its first."""
        each = range(n_layers)
        more = f" ({self.times} times)" if self.times > 1 else ""

        def left_out(kind: str, patch: type[Drop | DropAttention | DropMLP], *places: Where) -> list[Lesion]:
            asked: tuple[Where, ...] = self.positions if self.protocol == "corrected" else ("all",)
            chosen = [one for one in asked if one in places] or asked
            return [
                (kind if one == "all" else f"{kind}, {one}", i, patch(i, positions=one)) for one in chosen for i in each
            ]

        by_kind: dict[str, list[Lesion]] = {
            "drop": left_out("drop", Drop, "all", "bos", "rest"),
            "swap": [("swap", i, SwapWeights(i) if self.protocol == "paper" else Swap(i)) for i in each[:-1]],
            "attention": left_out("attention", DropAttention, "all", "bos"),
            "mlp": left_out("mlp", DropMLP, "all", "bos"),
            "replace": [("replace", i, Replace(i, i + 1)) for i in each[:-1]],
            "repeat": [
                (f"repeat {length}{more}", start, Repeat(start, length, self.times))
                for length in self.windows
                for start in range(n_layers - length + 1)
            ],
        }
        return [lesion for kind in self.kinds for lesion in by_kind[kind]]

    def passes(self, n_layers: int) -> float:
        return 1 + len(self.lesions(n_layers))  # each runs half of the blocks on average, plus logits

    def held_bytes(self, net: Adapter, tokens: int) -> int:
        """In the authors' protocol also tiles of the vocabulary."""
        n_streams, clamped = 1 + len(self.lesions(net.sizes.n_layers)), self.protocol == "paper"
        return super().held_bytes(net, tokens) + clamped * kept_bytes(n_streams, net.sizes.d_vocab, net.device)

    def read(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        net = hooked(model)
        chosen = self.lesions(net.sizes.n_layers)
        if not chosen:
            raise InputError(f"{net.name} has {net.sizes.n_layers} layers: too few for {', '.join(self.kinds)}.")
        facts = pd.DataFrame([(kind, layer) for kind, layer, _ in chosen], columns=["kind", "layer"])
        return self.swept(model, corpus, [lesion for *_, lesion in chosen], facts, batch_size)

    def of_twin(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        claimed = tuple(kind for kind in self.kinds if kind in CLAIMED)
        return replace(self, kinds=claimed or self.kinds, positions=("all",)).read(model, corpus, batch_size)

    def swept(
        self, model: Any, corpus: TokenCorpus, lesions: Sequence[Patch], facts: pd.DataFrame, size: int
    ) -> pd.DataFrame:  # fmt: skip
        """A row per ablation and sequence, with its describing row of `facts`; `size` sequences per pass."""
        tables = []
        for indices, batch in corpus.batches(size):
            clamped = self.protocol == "paper"
            compared = lesion_sweep(model, batch.tokens, lesions, lengths=batch.lengths, clamped=clamped)
            predicting, with_target = scored_positions(compared, self.protocol)
            names = ("kl", "agreement", "entropy", "top_k_overlap", "base_entropy")
            of_predictions = {name.replace("_k_", "_10_"): getattr(compared, name) for name in names}
            if self.protocol == "paper":
                of_predictions["agreement"] = same_string(compared, corpus.tokenizer)
            of_targets = {name: getattr(compared, name) for name in ("loss", "correct", "base_loss", "base_correct")}
            measured = {"positions": (predicting, of_predictions), "targets": (with_target, of_targets)}
            tables.append(sequence_means(facts, indices, measured))
        return pd.concat(tables, ignore_index=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        return lesion_evidence(claim, with_differences(table))

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mean of each metric per ablation: model, kind, metric, layer, mean, low, high, n (sequences), seeds.

        KL and losses in nats, entropies in bits; `accuracy_retained` is the ablated model's accuracy on the true next
        token over the clean model's, without the sequences where that is 0. In the authors' protocol `loss_difference`
        is the clean loss less the ablated one.
        """
        table = given(table)
        with np.errstate(invalid="ignore", divide="ignore"):
            retained, hits = table["correct"] / table["base_correct"], table["base_correct"] * table["targets"]
        measured = with_differences(table).assign(accuracy=table["correct"], accuracy_retained=retained, hits=hits)
        if self.protocol == "paper":
            measured["loss_difference"] *= -1
        return weighted_summary(measured, WEIGHTS, ["model", "kind"])

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary().copy()
        of_kl, bounds = summary["metric"] == "kl", ["mean", "low", "high"]
        summary.loc[of_kl, bounds] = summary.loc[of_kl, bounds].clip(lower=_LEAST)
        kinds = list(dict.fromkeys(summary["kind"]))
        repeats = [kind for kind in kinds if kind.startswith("repeat")]
        apart = [kind for kind in kinds if ", " in kind]
        styles = _STYLES | {kind: (kind, (GREY, SKY, INK)[place % 3]) for place, kind in enumerate(repeats)}

        def curves(metric: str, kinds: Sequence[str]) -> list[Curve]:
            return [Curve(metric, styles[kind][0], styles[kind][1], where={"kind": kind}) for kind in kinds]

        everywhere = [kind for kind in kinds if kind not in apart]
        panels = [
            Panel("KL to the clean model (nats)", curves("kl", everywhere), y_axis=_LOG),
            Panel("top-1 agreement", curves("agreement", everywhere), y_axis={"range": [0, 1.02]}),
        ]
        if others := [kind for kind in everywhere if kind not in repeats]:
            panels.append(Panel("entropy, ablated − clean (bits)", curves("entropy_difference", others)))
        if repeats:
            base = where(summary, metric="base_entropy", kind=repeats[0])["mean"].iloc[0]
            panels.append(
                Panel("entropy with a window of layers repeated (bits)",
                      [*curves("entropy", repeats), Level(base, INK, "clean")],
                      x_axis={"title_text": "first layer of the window"})
            )  # fmt: skip
        if apart:
            dropped = [kind for kind in kinds if kind == "drop"]
            panels.append(Panel("KL, dropped at some positions (nats)", curves("kl", [*dropped, *apart]), y_axis=_LOG))
        return Drawing(summary, panels, note=TEXT_BAND)


def with_differences(table: pd.DataFrame) -> pd.DataFrame:
    """A table of ablations with their added entropy (bits) and loss (nats)."""
    entropy, loss = (table[name] - table[f"base_{name}"] for name in ("entropy", "loss"))
    return table.assign(entropy_difference=entropy, loss_difference=loss)


def late_windows(summary: pd.DataFrame) -> pd.DataFrame:
    """Effect on entropy of repeating windows in the latter half of the layers, per window length.

    Columns: kind, n (windows), lower (number that lower the mean entropy).
    """
    repeats = summary[(summary["metric"] == "entropy_difference") & summary["kind"].str.startswith("repeat")]
    rows = []
    for kind, windows in repeats.groupby("kind", sort=False):
        n_layers = windows["layer"].max() + length(str(kind))
        late = windows[windows["layer"] >= n_layers / 2].set_index("layer")["mean"]
        if len(late):
            rows.append((kind, len(late), int((late < 0).sum())))
    return pd.DataFrame(rows, columns=["kind", "n", "lower"])


def scored_positions(
    compared: Compared, protocol: Protocol
) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Positions whose prediction counts, and those whose loss counts.

    Predictions: all except from position 0. Losses: the same, if they have a next token; in the authors' code also the
    loss from position 0.
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
    table = torch.full((max(ids) + 2,), -1)  # the last entry serves -1, which means no token
    table[ids] = torch.tensor([number[string] for string in strings])
    return (table[compared.top_token] == table[compared.base_top_token]).float()
