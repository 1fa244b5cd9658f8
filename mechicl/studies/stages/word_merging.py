"""Are the tokens of a word put together? (section 5.1, Fig. 6b, and what the paper leaves open)

The paper shows one head that looks back to the first pieces of words of four tokens, chosen by eye from examples
that were filtered for that very pattern; no head gets a score, and nothing shows that the model needs it. Three
direct tests, all ours (there is no `protocol="paper"`: the authors compute no number):

- *Within against across*: attention of a word's last token one token back (and two, three), where that is the same
  word, and where the word is a single token and it is another. At equal distance, only the word differs.
- *Sub-joiner heads*: attention of the last of 2, 3 or 4 tokens to the word's others (mass), against that of
  single-token words nearby to as many tokens before them (control), and the probability that the first is larger
  (AUROC). Heads are ranked on one half of all words, and judged on the other half; the preference for the first token,
  which the paper's figure shows, is measured as what that gets beyond the mean of the word's others (first bias).
- *Causal*: cut the last token's attention to its own word in the first third of the layers, and take the loss on the
  token after the word. Two controls cut as many edges: to the tokens just before the word, and inside the word in the
  last third of the layers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, add_curve, error_bars, panels
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.patches.cut_words import CutWords, cut_words
from mechicl.probes.sub_joiner import SUB_JOINER_QUANTITIES
from mechicl.probes.words import LossAt, WordAttention
from mechicl.results import Result
from mechicl.studies.stages.drawing import Curve, add_curves, titled, where
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
            parts.append(weighted_summary(renamed, weights, ["model"], "layer"))
        parts.append(judged(_rows(table, "heads", "pieces"), best_of_layers(self.heads(table))))
        losses = table[~table["cut"].isin(["attention", "heads"])]
        intact = where(losses, cut="nothing")[["model", "sequence", "loss"]]
        paired = losses.merge(intact, on=["model", "sequence"], suffixes=("", "_intact"))
        for cut in _CUTS:
            rows = where(paired, cut=cut)
            costs = rows.assign(**{f"cost, {cut}": rows["loss"] - rows["loss_intact"]}, layer=-1)
            parts.append(weighted_summary(costs, {f"cost, {cut}": "words"}, ["model"], "layer"))
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

    def figure(self, result: Result) -> go.Figure:
        summary, heads = result.summary(), self.heads(result.table)
        names = ["attention one token back", "sub-joiner heads: AUROC, held-out words",
                 "best head: attention to the word's other tokens", "what a cut adds to the loss (nats)"]  # fmt: skip
        figure = panels(names, common=False)
        beside = [Curve("within_1", "same word", BLUE), Curve("across_1", "another word", GREY)]
        add_curves(figure, summary, "layer", beside)
        for n, colour in zip(sorted(heads["pieces"].unique()), _COLOURS * len(self.pieces), strict=False):
            rows = where(summary, metric="auroc", pieces=n)
            add_curve(figure, rows, x="layer", name=f"words of {n} tokens", colour=colour, column=2)
            _add_dots(figure, where(heads, pieces=n), colour)
        figure.add_hline(0.5, line={"dash": "dot", "color": GREY}, row=1, col=2)
        best = heads.drop_duplicates("pieces")
        of_best = summary.merge(best[["pieces", "layer", "head"]])
        shown = (("mass", "words of several tokens", VERMILION), ("control", "single-token words", GREY))
        for metric, name, colour in shown:
            rows = where(of_best, metric=metric).sort_values("pieces")
            places = [f"{n}: L{layer}.H{head}" for n, layer, head in rows[["pieces", "layer", "head"]].to_numpy()]
            _add_bars(figure, rows, places, colour, 3, name)
        costs = summary[summary["metric"].str.startswith("cost")]
        _add_bars(figure, costs, [cut.removeprefix("cost, ") for cut in costs["metric"]], [VERMILION, GREY, GREY], 4)
        told = [self.source, "best heads are chosen on other words", TEXT_BAND, self._lacking(heads)]
        titled(figure, self, summary, "; ".join(filter(None, told)))
        figure.update_xaxes(title_text="tokens of a word: head", dtick=None, col=3)
        figure.update_xaxes(title_text="edges cut", dtick=None, col=4)
        return figure

    def finding(self, result: Result) -> str:
        summary, heads = result.summary(), self.heads(result.table)
        cost = summary.set_index("metric")["mean"]
        best = [_told(row) for row in heads.drop_duplicates("pieces").to_dict("records")]
        few = f" The text has {lacking}." if (lacking := self._lacking(heads)) else ""
        return (
            f"The best sub-joiner head, on held-out words: {'; '.join(best)}.{few} Cutting a word's last token off its "
            f"word in early layers costs {cost['cost, within, early']:+.3f} nats on the next token; cutting as much "
            f"before the word {cost['cost, before, early']:+.3f}, inside it in late layers "
            f"{cost['cost, within, late']:+.3f}."
        )

    def _lacking(self, heads: pd.DataFrame) -> str:
        """Which numbers of tokens there are too few words of, in words."""
        few = sorted(set(self.pieces) - set(heads["pieces"]))
        return f"too few words of {' and '.join(map(str, few))} tokens" if few else ""


def _is_cut(words: torch.Tensor) -> torch.Tensor:
    return cut_words(words) > 0


def _rows(table: pd.DataFrame, cut: str, number: str) -> pd.DataFrame:
    return where(table, cut=cut).astype({"layer": int, "head": int, number: int})


def _told(head: dict[Hashable, Any]) -> str:
    """One head in words."""
    return (
        f"for words of {head['pieces']} tokens L{head['layer']}.H{head['head']} (AUROC {head['auroc']:.2f}; attention "
        f"to the others {head['mass']:.2f}, in single-token words {head['control']:.2f}; to the first "
        f"{head['first_bias']:+.2f} beyond the rest)"
    )


def _add_dots(figure: go.Figure, heads: pd.DataFrame, colour: str) -> None:
    """Every head, faint."""
    figure.add_trace(
        go.Scatter(
            x=heads["layer"], y=heads["auroc"], mode="markers", marker={"color": colour, "size": 4, "opacity": 0.3},
            customdata=heads["head"], hovertemplate="H%{customdata}: %{y:.3f}", showlegend=False,
        ),
        row=1, col=2,
    )  # fmt: skip


def _add_bars(
    figure: go.Figure, rows: pd.DataFrame, places: Sequence[str], colour: str | list[str], column: int,
    name: str | None = None,
) -> None:  # fmt: skip
    figure.add_trace(
        go.Bar(
            x=places, y=rows["mean"], marker_color=colour, name=name, showlegend=name is not None,
            error_y=error_bars(rows), hovertemplate="%{y:.4f}",
        ),
        row=1, col=column,
    )  # fmt: skip
