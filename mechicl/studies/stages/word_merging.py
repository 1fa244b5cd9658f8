"""Are the tokens of a word merged? (section 5.1, Fig. 6b, and questions that the paper leaves open)

The paper shows one head that attends back to the first pieces of words of four tokens, chosen by eye from examples that
were filtered for exactly this pattern; no head gets a score, and nothing shows that the model needs it. We add three
direct tests (there is no `protocol="paper"`: the authors compute no number):

- *Within against across*: attention of a word's last token one token back (and two, three), if that token is in the
  same word, and, for single-token words, if it is in another word. The distance is the same; only the word differs.
- *Sub-joiner heads*: attention of the last of 2, 3 or 4 tokens to the word's others (mass), against that of nearby
  single-token words to the same number of tokens before them (control), and the probability that the first is larger
  (AUROC). Heads are ranked by mass less control on one half of all words, and tested on the other half. The preference
  for the first token, which the paper's figure shows, is its attention beyond the mean of the word's others (first
  bias).
- *Causal*: cut the last token's attention to its own word in one layer at a time, and measure the loss on the token
  after the word. The control cuts the same number of edges to the tokens just before the word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenBatch, TokenCorpus
from mechicl.declared import Switch
from mechicl.engines.comparison import Compared, Comparison
from mechicl.engines.wavefront import residual_groups
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, error_bars
from mechicl.hooks import Patch, run
from mechicl.models import blockwise, frozen
from mechicl.patches.cut_words import CutWords, cut_words
from mechicl.probes.sub_joiner import SUB_JOINER_QUANTITIES
from mechicl.probes.words import WordAttention, followed
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.sequences import weighted_means, weighted_summary
from mechicl.studies.stages.sub_joiners import HEAD, LEAST_WORDS, best_of_layers, judged, measure_heads, ranked_heads
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import by_layer, of_documents

_SOURCE = "Stages of Inference, section 5.1, Fig. 6b"
JOINERS = Claim(
    "sub-joiner-heads", "Early layers have heads that attend from a word's last token to its other tokens.", _SOURCE,
    "mass on the word's other tokens, of heads of the first third of the layers that were chosen on other words",
    "of attention", "nearby single-token words, at the same distance", 0.1,
)  # fmt: skip
NEEDED = Claim(
    "merging-is-needed", "Predictions after a word depend on attention inside the word in early layers.", _SOURCE,
    "loss that cuts inside the word add in the first third of the layers, one layer at a time, summed", "nats",
    "cuts of the same number of edges before the word", 0.05,
)  # fmt: skip
DISTANCES = (1, 2, 3)
_CUTS = ("within", "before")
_COLOURS = [GREEN, ORANGE, PURPLE, SKY]


@dataclass(frozen=True)
class WordMerging(Study):
    """Attention inside and between words, and the cost of cutting it: a row per sequence and head, or per cut.

    Attention (shares between 0 and 1) by sequence, layer, head and distance or number of tokens; losses in nats by
    sequence, cut and layer. `result.study.heads(result.table)` ranks all heads.
    """

    pieces: Annotated[tuple[int, ...], Switch("Tokens per word; heads are ranked for each number.", min=2)] = (2, 3, 4)

    name = "word-merging"
    title = "Merging the tokens of a word"
    shows = "Whether early layers merge a word's tokens: attention, sub-joiner heads, cut edges."
    source = "Stages of Inference, section 5.1, Fig. 6b; tests of our own"
    claim = (
        "Early layers have sub-joiner heads, which attend from a word's last token to its other tokens and merge them "
        "into a word."
    )
    claims = (JOINERS, NEEDED)
    reads = "text"
    may_lack = ("cost", "within", "across", "score_to_choose", *SUB_JOINER_QUANTITIES)  # undefined without such a word
    no_paper_protocol = "the authors compute no number to reproduce"
    batch_size = 8
    sweeps = True

    def conditions(self, model: Any) -> list[Condition]:
        return [{"cut": cut} for cut in ("attention", "heads", *_CUTS)]

    def passes(self, n_layers: int) -> float:
        return 2 + len(_CUTS) * n_layers / 2

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        if condition["cut"] == "attention":
            return self._attention(model, corpus, batch_size)
        if condition["cut"] == "heads":
            return measure_heads(model, corpus, self.pieces, batch_size)
        patches = [CutWords([layer], condition["cut"]) for layer in range(blockwise(model, self.name).sizes.n_layers)]
        tables = []
        for indices, batch in corpus.batches(batch_size):
            assert batch.words is not None
            compared, chosen = _compared(model, batch, patches), cut_words(batch.words) > 0
            chosen &= followed(batch.lengths, batch.tokens.shape[1])
            costs = torch.where(chosen, compared.loss - compared.base_loss, 0).double().sum(-1) / (n := chosen.sum(-1))
            facts = pd.MultiIndex.from_product([range(len(patches)), indices], names=["layer", "sequence"]).to_frame()
            words = n.repeat(len(patches)).numpy()
            tables.append(facts.assign(cost=costs.flatten().numpy(), words=words))
        return pd.concat(tables, ignore_index=True)

    def _attention(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        probes = [WordAttention(distance) for distance in DISTANCES]
        readings = run(model, corpus, probes, batch_size=batch_size)
        tables = [readings[probe].frame().assign(distance=probe.distance) for probe in probes]
        return pd.concat(tables, ignore_index=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        early = max(1, (int(table["layer"].max()) + 1) // 3)
        if claim is NEEDED:
            costs = [by_layer(where(table, cut=cut), "cost").dropna().loc[:, : early - 1].sum(axis=1) for cut in _CUTS]
            words = int(table[(table["cut"] == "within") & (table["layer"] == 0)]["words"].sum())
            if words < LEAST_WORDS:
                return Evidence.nothing(f"The text has {words} words of several tokens to cut; use more text.")
            return of_documents(costs[0], costs[1].to_numpy(), note=f"Words of several tokens in the text: {words}.")
        best = self._best(self.heads(table[table["layer"] < early]))
        of_heads = _rows(table, "heads", "pieces")
        rows = of_heads.merge(best[HEAD], on=HEAD)
        by = [name for name in ("document", "sequence") if name in rows]
        means = weighted_means(rows, {"mass": "words", "control": "words"}, by)
        means = means[means["words"] > 0].assign(document=lambda one: one[by[0]]).set_index(["document", "sequence"])
        return of_documents(means["mass"], means["control"].to_numpy(), note=_told(best, judged(of_heads, best)))

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, metric, layer, pieces and head (or -1), mean, low, high, n (sequences), seeds.

        `within_d`, `across_d`: shares of attention, mean over heads; `auroc`, `mass`, `control`, `first_bias`, and
        `score` (mass less control): held-out values for words of `pieces` tokens of each layer's head that is best on
        the other half of the words; `cost, ...`: loss added after words of several tokens by a cut in that layer, in
        nats.
        """
        attention = _rows(table, "attention", "distance")
        parts = []
        for distance, rows in attention.groupby("distance"):
            heads = rows.groupby(["model", "sequence", "layer"], as_index=False).mean(numeric_only=True)
            renamed = heads.rename(columns={m: f"{m}_{distance}" for m in ("within", "across")})
            weights = {f"{m}_{distance}": f"n_{m}" for m in ("within", "across") if renamed[f"n_{m}"].gt(0).any()}
            parts.append(weighted_summary(renamed, weights))
        parts.append(judged(_rows(table, "heads", "pieces"), best_of_layers(self.heads(table))))
        for cut in _CUTS:
            costs = where(table, cut=cut).rename(columns={"cost": f"cost, {cut}"})
            parts.append(weighted_summary(costs, {f"cost, {cut}": "words"}))
        summary = pd.concat(parts, ignore_index=True)
        return summary.fillna({"pieces": -1, "head": -1}).astype({"pieces": int, "head": int})

    def heads(self, table: pd.DataFrame) -> pd.DataFrame:
        """Every head as a sub-joiner, for words of each number of tokens, best first: see `ranked_heads`.

        Raises:
            InputError: no number of tokens has 20 words in both halves.
        """
        if "score_to_choose" not in table:
            raise InputError("An earlier version saved this table without what heads are chosen by; run it again.")
        ranked = ranked_heads(_rows(table, "heads", "pieces"), LEAST_WORDS)
        if ranked.empty:
            raise InputError(
                f"Too few words of several tokens to compare heads: fewer than {LEAST_WORDS} in either half; use "
                "more text."
            )
        return ranked

    def _best(self, heads: pd.DataFrame) -> pd.DataFrame:
        return heads.drop_duplicates(["model", "pieces"])

    def drawing(self, result: Result) -> Drawing:
        summary, heads = result.summary(), self.heads(result.table)
        aurocs: list[Any] = []
        for n, colour in zip(sorted(heads["pieces"].unique()), _COLOURS * len(self.pieces), strict=False):
            aurocs.append(Curve("auroc", f"words of {n} tokens", colour, where={"pieces": n}))
            aurocs.append(_dots(where(heads, pieces=n), colour))
        best = summary.merge(self._best(heads)[["pieces", "layer", "head"]])
        of_best = []
        for metric, name, colour in (("mass", "words of several tokens", VERMILION),
                                     ("control", "single-token words", GREY)):  # fmt: skip
            rows = where(best, metric=metric).sort_values("pieces")
            places = [f"{n}: L{layer}.H{head}" for n, layer, head in rows[["pieces", "layer", "head"]].to_numpy()]
            of_best.append(_bars(rows, places, colour, name=name))
        panels = [
            Panel("attention one token back",
                  [Curve("within_1", "same word", BLUE), Curve("across_1", "another word", GREY)]),
            Panel("sub-joiner heads: AUROC, held-out words", [*aurocs, Level(0.5, GREY)]),
            Panel("best head: attention to the word's other tokens", of_best,
                  x_axis={"title_text": "tokens of a word: head"}),
            Panel("what a cut in one layer adds to the loss (nats)",
                  [Curve("cost, within", "edges inside the word", VERMILION),
                   Curve("cost, before", "edges before the word", GREY)]),
        ]  # fmt: skip
        note = ["best heads are chosen on other words", TEXT_BAND, self._lacking(heads)]
        return Drawing(summary, panels, note="; ".join(filter(None, note)))

    def remarks(self, result: Result, rows: pd.DataFrame) -> list[str]:
        said = super().remarks(result, rows)
        with suppress(InputError):  # too few words of any length, which the verdict says
            said += [f"The text has {lacking}."] if (lacking := self._lacking(self.heads(rows))) else []
        return said

    def _lacking(self, heads: pd.DataFrame) -> str:
        """The lengths of which the text has too few words, as text."""
        few = sorted(set(self.pieces) - set(heads["pieces"]))
        return f"too few words of {' and '.join(map(str, few))} tokens" if few else ""


def _told(best: pd.DataFrame, on_held_out: pd.DataFrame) -> str:
    """The best head for each word length, on held-out words, with the interval of its mass above control."""
    scores = where(on_held_out, metric="score")[["pieces", "low", "high"]]
    parts = [
        f"for words of {row.pieces} tokens L{row.layer}.H{row.head} (mass {row.mass:.2f} against {row.control:.2f}, "
        f"{_bounds(row.low, row.high)}AUROC {row.auroc:.2f}, n = {row.words:.0f} held-out words)"
        for row in best.merge(scores, on="pieces").itertuples()
    ]
    return f"The heads are {'; '.join(parts)}."


def _bounds(low: Any, high: Any) -> str:
    """The interval of a difference; nothing for a single sequence."""
    return "" if math.isnan(low) else f"difference [{low:.2f}, {high:.2f}], "


def _compared(model: Any, batch: TokenBatch, patches: Sequence[Patch]) -> Compared:
    """Losses under each patch and of the clean model; patches read the batch's words."""
    net = blockwise(model, WordMerging.name)
    with frozen(net), torch.no_grad():
        comparison = Comparison(net, batch.tokens, batch.lengths, 0)
        for clean, *patched in residual_groups(net, batch.to(net.device), patches):
            comparison.add(clean, patched)
        return comparison.finish(patches)


def _rows(table: pd.DataFrame, cut: str, number: str) -> pd.DataFrame:
    return where(table, cut=cut).astype({"layer": int, "head": int, number: int})


def _dots(heads: pd.DataFrame, colour: str) -> go.Scatter:
    """Every head, faint."""
    return go.Scatter(
        x=heads["layer"], y=heads["auroc"], mode="markers", marker={"color": colour, "size": 4, "opacity": 0.3},
        customdata=heads["head"], hovertemplate="H%{customdata}: %{y:.3f}", showlegend=False,
    )  # fmt: skip


def _bars(rows: pd.DataFrame, places: list[str], colour: str, name: str) -> go.Bar:
    return go.Bar(
        x=places, y=rows["mean"], marker_color=colour, name=name, error_y=error_bars(rows), hovertemplate="%{y:.4f}"
    )
