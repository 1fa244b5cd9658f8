"""Are the tokens of a word put together? (section 5.1, Fig. 6b, and what the paper leaves open)

The paper shows one head that looks back to the first pieces of words of four tokens, chosen by eye from examples
that were filtered for that very pattern; no head gets a score, and nothing shows that the model needs it. Three
direct tests, all ours (there is no `protocol="paper"`: the authors compute no number):

- *Within against across*: attention of a word's last token one token back (and two, three), where that is the same
  word, and where the word is a single token and it is another. At equal distance, only the word differs.
- *Sub-joiner heads*: attention of the last of 2, 3 or 4 tokens to the word's others (mass), against that of
  single-token words nearby to as many tokens before them (control), and the probability that the first is larger
  (AUROC). Heads are ranked on one half of all words, and tested on the other half. The preference for the first token,
  which the paper's figure shows, is the attention that it gets beyond the mean of the word's others (first bias).
- *Causal*: cut the last token's attention to its own word in the first third of the layers, and measure the loss on the
  token after the word. Two controls cut as many edges: to the tokens just before the word, and inside the word in the
  last third of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, error_bars
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.patches.cut_words import CutWords, cut_words
from mechicl.probes.sub_joiner import SUB_JOINER_QUANTITIES
from mechicl.probes.words import LossAt, WordAttention
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.stages.sub_joiners import best_of_layers, judged, measure_heads, ranked_heads
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

DISTANCES = (1, 2, 3)
_CUTS = ("within, early", "before, early", "within, late")
_COLOURS = [GREEN, ORANGE, PURPLE, SKY]


@dataclass(frozen=True)
class WordMerging(Study):
    """Attention inside and between words, and what cutting it costs: a row per sequence and head, or per cut.

    Attention (shares between 0 and 1) by sequence, layer, head and distance or number of tokens; losses in nats by
    sequence and cut. `result.study.heads(result.table)` ranks all heads.
    """

    pieces: Annotated[tuple[int, ...], Switch("Tokens of words; for each number, heads are ranked.", min=2)] = (2, 3, 4)

    name = "word-merging"
    title = "Putting words together"
    shows = "Whether early layers put a word's tokens together: attention, sub-joiner heads, cuts."
    source = "Stages of Inference, section 5.1, Fig. 6b; tests of our own"
    claim = (
        "Early layers have sub-joiner heads, which look from a word's last token back to its other tokens: there "
        "tokens become words."
    )
    reads = "text"
    may_lack = ("loss", "within", "across", "auroc_to_choose", *SUB_JOINER_QUANTITIES)  # where there is no such word
    no_paper_protocol = "the authors compute no number to reproduce"
    batch_size = 8

    def conditions(self, model: Any) -> list[Condition]:
        return [{"cut": cut} for cut in ("attention", "heads", "nothing", *_CUTS)]

    def passes(self, n_layers: int) -> float:
        return 3 + len(_CUTS)

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        if condition["cut"] == "attention":
            return self._attention(model, corpus, batch_size)
        if condition["cut"] == "heads":
            return measure_heads(model, corpus, self.pieces, batch_size)
        n_layers = hooked(model).sizes.n_layers
        third = max(1, n_layers // 3)
        patches = {
            "within, early": CutWords(range(third)),
            "before, early": CutWords(range(third), "before"),
            "within, late": CutWords(range(n_layers - third, n_layers)),
        }
        chosen = [patches[condition["cut"]]] if condition["cut"] in patches else []
        table = run(model, corpus, [LossAt(_is_cut)], chosen, batch_size=batch_size).frame()
        return table.rename(columns={"tokens": "words"})

    def _attention(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        probes = [WordAttention(distance) for distance in DISTANCES]
        readings = run(model, corpus, probes, batch_size=batch_size)
        tables = [readings[probe].frame().assign(distance=probe.distance) for probe in probes]
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, metric, layer (or -1), pieces and head (or -1), mean, low, high, n (sequences), seeds.

        `within_d`, `across_d`: shares of attention, mean over heads; of each layer's head that does best on the other
        half of the words, for words of so many `pieces`, on held-out words: `auroc`, `mass`, `control`, `first_bias`;
        `cost, ...`: what a cut adds to the loss after words of several tokens, in nats.
        """
        attention = _rows(table, "attention", "distance")
        parts = []
        for distance, rows in attention.groupby("distance"):
            heads = rows.groupby(["model", "sequence", "layer"], as_index=False).mean(numeric_only=True)
            renamed = heads.rename(columns={m: f"{m}_{distance}" for m in ("within", "across")})
            weights = {f"{m}_{distance}": f"n_{m}" for m in ("within", "across") if renamed[f"n_{m}"].gt(0).any()}
            parts.append(weighted_summary(renamed, weights))
        parts.append(judged(_rows(table, "heads", "pieces"), best_of_layers(self.heads(table))))
        losses = table[~table["cut"].isin(["attention", "heads"])]
        clean = where(losses, cut="nothing")[["model", "sequence", "loss"]]
        paired = losses.merge(clean, on=["model", "sequence"], suffixes=("", "_clean"))
        for cut in _CUTS:
            rows = where(paired, cut=cut)
            costs = rows.assign(**{f"cost, {cut}": rows["loss"] - rows["loss_clean"]}, layer=-1)
            parts.append(weighted_summary(costs, {f"cost, {cut}": "words"}))
        summary = pd.concat(parts, ignore_index=True)
        return summary.fillna({"pieces": -1, "head": -1}).astype({"pieces": int, "head": int})

    def heads(self, table: pd.DataFrame) -> pd.DataFrame:
        """Every head as a sub-joiner, for words of each number of tokens, the best first: see `ranked_heads`.

        Raises:
            InputError: no number of tokens has words in both halves.
        """
        ranked = ranked_heads(_rows(table, "heads", "pieces"))
        if ranked.empty:
            raise InputError("Too few words of several tokens to tell heads apart; take more text.")
        return ranked

    def drawing(self, result: Result) -> Drawing:
        summary, heads = result.summary(), self.heads(result.table)
        aurocs: list[Any] = []
        for n, colour in zip(sorted(heads["pieces"].unique()), _COLOURS * len(self.pieces), strict=False):
            aurocs.append(Curve("auroc", f"words of {n} tokens", colour, where={"pieces": n}))
            aurocs.append(_dots(where(heads, pieces=n), colour))
        best = summary.merge(heads.drop_duplicates("pieces")[["pieces", "layer", "head"]])
        of_best = []
        for metric, name, colour in (("mass", "words of several tokens", VERMILION),
                                     ("control", "single-token words", GREY)):  # fmt: skip
            rows = where(best, metric=metric).sort_values("pieces")
            places = [f"{n}: L{layer}.H{head}" for n, layer, head in rows[["pieces", "layer", "head"]].to_numpy()]
            of_best.append(_bars(rows, places, colour, name=name))
        costs = summary[summary["metric"].str.startswith("cost")]
        cuts = _bars(costs, list(costs["metric"].str.removeprefix("cost, ")), [VERMILION, GREY, GREY])
        panels = [
            Panel("attention one token back",
                  [Curve("within_1", "same word", BLUE), Curve("across_1", "another word", GREY)]),
            Panel("sub-joiner heads: AUROC, held-out words", [*aurocs, Level(0.5, GREY)]),
            Panel("best head: attention to the word's other tokens", of_best,
                  x_axis={"title_text": "tokens of a word: head", "dtick": None}),
            Panel("what a cut adds to the loss (nats)", [cuts], x_axis={"title_text": "edges cut", "dtick": None}),
        ]  # fmt: skip
        note = ["best heads are chosen on other words", TEXT_BAND, self._lacking(heads)]
        return Drawing(summary, panels, note="; ".join(filter(None, note)))

    def finding(self, result: Result) -> str:
        cost, heads = result.summary().set_index("metric")["mean"], self.heads(result.table)
        best = "; ".join(
            f"for words of {row.pieces} tokens L{row.layer}.H{row.head} (AUROC {row.auroc:.2f})"
            for row in heads.drop_duplicates("pieces").itertuples()
        )
        few = f" The text has {lacking}." if (lacking := self._lacking(heads)) else ""
        costs = ", ".join(f"{cut} {cost[f'cost, {cut}']:+.3f}" for cut in _CUTS)
        return (
            f"The best sub-joiner head, on held-out words: {best}.{few} What cutting attention adds to the loss on the "
            f"next token (nats): {costs}."
        )

    def _lacking(self, heads: pd.DataFrame) -> str:
        """Which lengths the text has too few words of, in words."""
        few = sorted(set(self.pieces) - set(heads["pieces"]))
        return f"too few words of {' and '.join(map(str, few))} tokens" if few else ""


def _is_cut(words: torch.Tensor) -> torch.Tensor:
    return cut_words(words) > 0


def _rows(table: pd.DataFrame, cut: str, number: str) -> pd.DataFrame:
    return where(table, cut=cut).astype({"layer": int, "head": int, number: int})


def _dots(heads: pd.DataFrame, colour: str) -> go.Scatter:
    """Every head, faint."""
    return go.Scatter(
        x=heads["layer"], y=heads["auroc"], mode="markers", marker={"color": colour, "size": 4, "opacity": 0.3},
        customdata=heads["head"], hovertemplate="H%{customdata}: %{y:.3f}", showlegend=False,
    )  # fmt: skip


def _bars(rows: pd.DataFrame, places: Sequence[str], colour: str | list[str], name: str | None = None) -> go.Bar:
    return go.Bar(
        x=places, y=rows["mean"], marker_color=colour, name=name, error_y=error_bars(rows), hovertemplate="%{y:.4f}"
    )
