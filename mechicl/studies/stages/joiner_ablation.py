"""Ablating sub-joiner heads: does the model need them after words of several tokens? (section 5.1, Fig. 6b)

*Stages of Inference* shows a head that attends from a word's last token to its first ones, and concludes that it
assembles words. If so, the model should predict worse without it where a word of several tokens has just ended.

We select heads in the first third of the layers as `word-merging` ranks them (attention to the word's other tokens,
minus that of single-token words the same number of tokens back), on one half of the vocabulary's words. They are set to
their mean outputs, except at position 0, and the loss on the token after a word is measured on the other half. Controls
are several draws of the same number of random heads of the same layers. We also report the loss after single-token
words, where a sub-joiner head has nothing to join. The paper's picture is drawn for the best of these heads: what a
word's last token attends to, averaged over held-out words and for ten of them. There is no `protocol="paper"`: the
authors ablate no heads.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus, pieces_of_ended_words
from mechicl.declared import Switch
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.figures import GREY, VERMILION, error_bars
from mechicl.models import hooked
from mechicl.patches.ablate_heads import AblateHeads, head_means
from mechicl.probes.words import followed, word_half
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, where
from mechicl.studies.stages.sub_joiners import HEAD, LEAST_WORDS, measure_heads, ranked_heads
from mechicl.studies.stages.word_patterns import pattern_panels, pattern_summary, word_patterns
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND, mean_with_interval
from mechicl.studies.twins import against_draws, by_layer

NEEDED = Claim(
    "sub-joiners-needed", "Predictions after words of several tokens need the sub-joiner heads.",
    "Stages of Inference, section 5.1, Fig. 6b; a test of our own",
    "loss added by ablating them, after held-out words of several tokens", "nats",
    "random heads of the same layers", 0.02,
)  # fmt: skip
_AFTER = {"several tokens": "words of several tokens", "one token": "words of one token"}
_OF = {"sub-joiner heads": VERMILION, "random heads": GREY}


@dataclass(frozen=True)
class JoinerAblation(Study):
    """Loss after words with heads ablated, and what these heads attend to, by the column `part`.

    "ablation", a row per set of heads, sequence and kind of word: `draw` is -1 for the sub-joiner heads and numbers the
    random ones; `cost` is the added loss in nats, averaged over `words` words; `after` is the kind of word. "pattern",
    a row per sequence, sub-joiner head, tokens of the word (`pieces`) and distance: attention of the word's last token
    to the token `back` positions earlier, averaged over `words` words. "example": the same for single words, by the
    best head.
    """

    pieces: Annotated[tuple[int, ...], Switch("Tokens per word; heads are selected for each number.", min=2)] = (2, 3)
    heads: Annotated[int, Switch("Number of sub-joiner heads, best first; at most half of a layer's.", min=1)] = 4
    draws: Annotated[int, Switch("Random draws of control heads in the same layers.", min=2)] = 8
    draw_seed: Annotated[int, Switch("Seed of the draws.", min=0)] = 0

    name = "joiner-ablation"
    title = "Sub-joiner heads ablated"
    shows = "Loss after multi-token words without sub-joiner heads, and what these heads attend to."
    source = NEEDED.source
    claim = "Early heads merge the tokens of a word."
    claims = (NEEDED,)
    reads = "text"
    no_paper_protocol = "the authors ablate no heads"
    may_lack = ("draw", "cost", "after", "pieces", "back", "attention", "word")  # columns of the other parts
    batch_size = 4
    sweeps = True

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # heads are selected on the whole text

    def passes(self, n_layers: int) -> float:
        return 3 + 2 + self.draws

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        sizes = hooked(model).sizes
        chosen = self.chosen(model, corpus, batch_size)
        sets = self.sets(chosen, sizes.n_heads)
        means = head_means(model, corpus, batch_size=batch_size)
        patches = [AblateHeads(tuple(heads), means, positions="rest") for heads in sets.values()]
        names = [", ".join(f"{layer}.{head}" for layer, head in heads) for heads in sets.values()]
        tables = []
        for indices, batch in corpus.batches(batch_size):
            assert batch.words is not None
            compared = lesion_sweep(model, batch.tokens, patches, lengths=batch.lengths, top_k=0)
            pieces = pieces_of_ended_words(batch.words)
            judged = followed(batch.lengths, batch.tokens.shape[1]) & (word_half(batch.tokens, batch.words) == 1)
            judged &= torch.arange(batch.tokens.shape[1]) > 0
            for after, ended in (("several tokens", pieces > 1), ("one token", pieces == 1)):
                at = (ended & judged).cpu()
                n = at.sum(-1)
                cost = torch.where(at, compared.loss - compared.base_loss, 0).double().sum(-1) / n.clamp(min=1)
                places = pd.MultiIndex.from_product([list(sets), indices], names=["draw", "sequence"])
                rows: dict[str, Any] = {
                    "cost": cost.flatten().numpy(),
                    "words": n.repeat(len(sets)).numpy(),
                    "after": after,
                }
                tables.append(places.to_frame(index=False).assign(**rows, heads=np.repeat(names, len(indices))))
        ablations = pd.concat(tables, ignore_index=True).assign(part="ablation")
        patterns = word_patterns(model, corpus, chosen, self.pieces, batch_size)
        return pd.concat([ablations[ablations["words"] > 0], patterns], ignore_index=True)

    def chosen(self, model: Any, corpus: TokenCorpus, batch_size: int) -> list[tuple[int, int]]:
        """The sub-joiner heads (layer, head) of the first third of the layers.

        Raises:
            InputError: fewer than 20 words of these lengths in either half of the text's words.
        """
        net = hooked(model)
        rows = measure_heads(model, corpus, self.pieces, batch_size).assign(model=net.name)
        ranked = ranked_heads(rows, LEAST_WORDS)
        if ranked.empty:
            raise InputError(
                f"Too few words of {' or '.join(map(str, self.pieces))} tokens to choose heads by: fewer than "
                f"{LEAST_WORDS} in either half; use more text."
            )
        early = ranked[ranked["layer"] < max(1, net.sizes.n_layers // 3)]
        score = early.groupby(HEAD[2:])["score_to_choose"].mean().sort_values(ascending=False, kind="stable")
        ranked_in_layer = pd.Series(1, score.index).groupby(level=0).cumsum()
        kept = score.index[(ranked_in_layer <= max(1, net.sizes.n_heads // 2)).to_numpy()]  # others remain as controls
        return [(int(layer), int(head)) for layer, head in kept[: self.heads]]

    def sets(self, chosen: list[tuple[int, int]], n_heads: int) -> dict[int, list[tuple[int, int]]]:
        """The selected heads, and for each draw the same number of others of their layers."""
        found = {-1: sorted(chosen)}
        for draw in range(self.draws):
            generator = np.random.default_rng([self.draw_seed, draw])
            found[draw] = []
            for layer in sorted({layer for layer, _ in chosen}):
                taken = [head for at, head in chosen if at == layer]
                left = np.setdiff1d(np.arange(n_heads), taken)
                others = generator.permutation(left)[: len(taken)]
                found[draw] += [(layer, int(head)) for head in sorted(others)]
        if not found[0]:
            raise InputError(
                "Every head of these layers is chosen, and none is left to compare with; give fewer heads."
            )
        return found

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        several, one = (where(table, part="ablation", after=after) for after in _AFTER)
        words = int(where(several, draw=-1)["words"].sum())
        if words < LEAST_WORDS:
            return Evidence.nothing(f"The text has {words} words of several tokens to judge by; use more text.")
        heads = re.sub(r"(\d+)\.(\d+)", r"L\1.H\2", str(where(several, draw=-1)["heads"].iloc[0]))
        note = (
            f"The heads are {heads}; after words of one token they add {_cost(one, own=True):+.3g} nats, random heads "
            f"{_cost(one, own=False):+.3g}; {words} words."
        )
        return against_draws(by_layer(several, "cost", "draw"), note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Columns: model, of (which heads), metric, mean, low, high, n (sequences), pieces and back (or -1).

        Metrics: loss added after words of several tokens, or of one (nats); `pattern`, attention of a word's last token
        to the token `back` positions earlier, by the best sub-joiner head.
        """
        rows = where(table, part="ablation")
        rows = rows.assign(of=np.where(rows["draw"] < 0, *_OF), metric=rows["after"])
        by = ["model", "of", "metric"]
        means = rows.groupby([*by, "sequence", "words"])["cost"].mean().reset_index()
        costs = mean_with_interval(means, "cost", by, weight="words").assign(pieces=-1, back=-1)
        return pd.concat([costs, pattern_summary(table)], ignore_index=True)

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        bars = []
        for of, colour in _OF.items():
            rows = where(summary, of=of).set_index("metric").reindex([*_AFTER]).dropna(subset="mean")
            names = [_AFTER[str(after)] for after in rows.index]
            bars.append(go.Bar(x=names, y=rows["mean"], name=of, marker_color=colour, error_y=error_bars(rows),
                               hovertemplate="%{y:.4f}"))  # fmt: skip
        of_costs = Panel("loss added on the token after", bars, {}, {"title_text": "nats"})
        panels = [of_costs, *pattern_panels(summary, result.table)]
        return Drawing(
            summary, panels, x="back", x_title="", hover="closest", note=f"heads at their means; {TEXT_BAND}",
            widths=(1.0, 1.0) if len(panels) % 2 == 0 else (),
        )  # fmt: skip


def _cost(rows: pd.DataFrame, *, own: bool) -> float:
    """Mean over words for the selected heads, or for the random ones."""
    chosen = rows[(rows["draw"] < 0) == own]
    return float(np.average(chosen["cost"], weights=chosen["words"])) if len(chosen) else float("nan")
