"""Are the tokens of a word put together? (section 5.1, Fig. 6b, and what the paper leaves open)

The paper shows one head that looks back to the first pieces of words of four tokens, chosen by eye from examples
that were filtered for that very pattern; no head gets a score, and nothing shows that the model needs it. Three
direct tests, all ours (there is no `protocol="paper"`: the authors compute no number):

- *Within against across*: attention of a word's last token one token back (and two, three), where that is the same
  word, and where the word is a single token and it is another. At equal distance, only the word differs.
- *Sub-joiner heads*: the probability that a within case gets more attention than an across case (AUROC). Heads are
  ranked on one half of all words, and judged on the other half.
- *Causal*: cut the last token's attention to its own word in the first third of the layers, and take the loss on the
  token after the word. Two controls cut as many edges: to the tokens just before the word, and inside the word in the
  last third of the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.corpora import TokenCorpus
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREY, VERMILION, add_curve, panels, styled
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.patches.cut_words import CutWords, cut_words
from mechicl.probes.words import WORD_QUANTITIES, LossAt, WordAttention, followed
from mechicl.results import Result
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

DISTANCES = (1, 2, 3)
_CUTS = ("within, early", "before, early", "within, late")


@dataclass(frozen=True)
class WordMerging(Study):
    """Attention inside and between words by head, and what cutting it costs."""

    name: ClassVar[str] = "word-merging"
    title: ClassVar[str] = "Putting words together"
    source: ClassVar[str] = "Stages of Inference, section 5.1, Fig. 6b; tests of our own"
    claim: ClassVar[str] = (
        "Early layers have sub-joiner heads, which look from a word's last token back to its other tokens: there "
        "tokens become words."
    )
    reads: ClassVar = "text"
    no_paper_protocol: ClassVar = "the authors compute no number to reproduce"

    def conditions(self, model: Any) -> list[Condition]:
        return [{"cut": "attention"}, {"cut": "nothing"}, *({"cut": cut} for cut in _CUTS)]

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        if condition["cut"] == "attention":
            return self._attention(model, corpus, batch_size)
        n_layers = hooked(model).sizes.n_layers
        third = max(1, n_layers // 3)
        patches = {
            "within, early": CutWords(range(third)),
            "before, early": CutWords(range(third), "before"),
            "within, late": CutWords(range(n_layers - third, n_layers)),
        }
        probe = LossAt(_is_cut)
        chosen = [patches[condition["cut"]]] if condition["cut"] in patches else []
        sums = run(model, corpus, [probe], chosen, batch_size=batch_size)[probe].double()
        n = (_is_cut(corpus.words) & followed(corpus.lengths, corpus.words.shape[1])).sum(1)
        return pd.DataFrame(
            {"sequence": np.arange(len(corpus)), "loss": sums / n.clamp(min=1), "words": n}
        )  # fmt: skip

    def _attention(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        probes = [WordAttention(distance) for distance in DISTANCES]
        seen = run(model, corpus, probes, batch_size=batch_size)
        tables = []
        for probe in probes:
            sums = seen[probe].double()
            index = pd.MultiIndex.from_product([range(n) for n in sums.shape[:3]], names=["sequence", "layer", "head"])
            table = pd.DataFrame(sums.flatten(0, 2).numpy(), columns=list(WORD_QUANTITIES), index=index).reset_index()
            means = {"within": "n_within", "across": "n_across", "auroc_0": "pairs_0", "auroc_1": "pairs_1"}
            for mean, count in means.items():
                table[mean] /= table[count].clip(lower=1)
            tables.append(table.assign(distance=probe.distance))
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, metric, layer (of attention, mean over heads) or -1, mean, low, high, n (sequences), seeds.

        `within_d`, `across_d`: shares of attention; `best_head`: the AUROC on held-out words of each layer's head that
        does best on the others; `cost, ...`: what a cut adds to the loss after words of several tokens, in nats.
        """
        attention = _attention_rows(table)
        parts = []
        for distance, rows in attention.groupby("distance"):
            heads = rows.groupby(["model", "sequence", "layer"], as_index=False).mean(numeric_only=True)
            renamed = heads.rename(columns={m: f"{m}_{distance}" for m in ("within", "across")})
            weights = {f"within_{distance}": "n_within", f"across_{distance}": "n_across"}
            weights = {m: w for m, w in weights.items() if renamed[w].gt(0).any()}
            parts.append(weighted_summary(renamed, weights, ["model"], "layer"))
        chosen = best_heads(attention)
        own = attention[attention["distance"] == 1].merge(chosen[["layer", "head"]], on=["layer", "head"])
        own = own.rename(columns={"auroc_1": "best_head"})
        parts.append(weighted_summary(own, {"best_head": "pairs_1"}, ["model"], "layer"))
        losses = table[table["cut"] != "attention"]
        intact = losses[losses["cut"] == "nothing"][["model", "sequence", "loss"]]
        paired = losses.merge(intact, on=["model", "sequence"], suffixes=("", "_intact"))
        for cut in _CUTS:
            rows = paired[paired["cut"] == cut]
            name = f"cost, {cut}"
            costs = rows.assign(**{name: rows["loss"] - rows["loss_intact"]}, layer=-1)
            parts.append(weighted_summary(costs, {name: "words"}, ["model"], "layer"))
        return pd.concat(parts, ignore_index=True)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        names = ["attention one token back", "best head: AUROC within / across", "what a cut adds to the loss (nats)"]
        figure = panels(names, common=False)
        curves = (("within_1", "same word", BLUE, 1), ("across_1", "another word", GREY, 1),
                  ("best_head", "held-out words", VERMILION, 2))  # fmt: skip
        for metric, name, colour, column in curves:
            add_curve(figure, summary[summary["metric"] == metric], x="layer", name=name, colour=colour, column=column)
        figure.add_hline(0.5, line={"dash": "dot", "color": GREY}, row=1, col=2)
        costs = summary[summary["metric"].str.startswith("cost")]
        figure.add_trace(
            go.Bar(
                x=costs["metric"].str.removeprefix("cost, "), y=costs["mean"], showlegend=False,
                marker_color=[VERMILION, GREY, GREY],
                error_y={"type": "data", "array": costs["high"] - costs["mean"], "symmetric": False,
                         "arrayminus": costs["mean"] - costs["low"]},
                hovertemplate="%{y:.4f}",
            ),
            row=1, col=3,
        )  # fmt: skip
        styled(
            figure, title=f"{self.title}: {', '.join(summary['model'].unique())}",
            subtitle=f"{self.source}; {TEXT_BAND}", x="layer", y="", counts=max(1, int(summary["layer"].max())),
        )  # fmt: skip
        figure.update_xaxes(title_text="edges cut", dtick=None, col=3)
        return figure

    def finding(self, result: Result) -> str:
        summary = result.summary().set_index(["metric", "layer"])["mean"]
        heads = best_heads(_attention_rows(result.table))
        best = heads.nlargest(1, "auroc_0").iloc[0]
        loss = {cut: summary[f"cost, {cut}", -1] for cut in _CUTS}
        return (
            f"The best sub-joiner head is L{best['layer']:.0f}.H{best['head']:.0f}: AUROC {best['auroc_1']:.2f} on "
            f"held-out words. Cutting a word's last token off its word in early layers costs "
            f"{loss['within, early']:+.3f} nats on the next token; cutting as much before the word "
            f"{loss['before, early']:+.3f}, inside it in late layers {loss['within, late']:+.3f}."
        )


def _is_cut(words: torch.Tensor) -> torch.Tensor:
    return cut_words(words) > 0


def _attention_rows(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["cut"] == "attention"].astype({"layer": int, "head": int, "distance": int})


def best_heads(attention: pd.DataFrame) -> pd.DataFrame:
    """The head of each layer with the highest AUROC on half 0 of the words: layer, head, auroc_0, auroc_1."""
    rows = attention[attention["distance"] == 1]
    wins = rows.assign(
        wins_0=rows["auroc_0"] * rows["pairs_0"], wins_1=rows["auroc_1"] * rows["pairs_1"]
    ).groupby(["layer", "head"], as_index=False)[["wins_0", "pairs_0", "wins_1", "pairs_1"]].sum()  # fmt: skip
    if not (wins["pairs_0"].gt(0).all() and wins["pairs_1"].gt(0).all()):
        raise InputError("Too few words of several tokens to tell heads apart; take more text.")
    scores = wins.assign(auroc_0=wins["wins_0"] / wins["pairs_0"], auroc_1=wins["wins_1"] / wins["pairs_1"])
    best = scores.loc[scores.groupby("layer")["auroc_0"].idxmax()]
    return best[["layer", "head", "auroc_0", "auroc_1"]].reset_index(drop=True)


def word_merging(model: Any, corpus: TokenCorpus, *, batch_size: int = 8) -> Result:
    """Test whether early layers put a word's tokens together (section 5.1); see the module.

    Args:
        model: a HookedTransformer.
        corpus: running text of a fast tokenizer, so that words are known.
        batch_size: sequences per pass.

    Returns:
        A result with rows per sequence, layer, head and distance (attention), and per sequence and cut (loss in nats).
    """
    return WordMerging().run(model, corpus, batch_size=batch_size)
