"""What the last token of a word attends to, token by token: the pattern of Fig. 6b, on unfiltered words.

The paper shows ten words of four tokens, chosen from those whose attention already had the pattern, for one head. We
show heads selected on other words: their mean over all held-out words, and ten random examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.corpora import TokenCorpus, pieces_of_ended_words
from mechicl.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, plain
from mechicl.hooks import run
from mechicl.probes.look_back import LookBack
from mechicl.probes.words import word_half
from mechicl.studies.drawing import Curve, Panel, where
from mechicl.studies.summary import mean_with_interval

REACH = 16
"""Number of tokens in the paper's figure, including the word's last one."""
_EXAMPLES = 10
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def word_patterns(
    model: Any, corpus: TokenCorpus, heads: Sequence[tuple[int, int]], pieces: Sequence[int], batch_size: int
) -> pd.DataFrame:
    """Attention of words' last tokens by distance back, for held-out words of one token and of `pieces`.

    Part "pattern": a row per sequence, head, number of tokens and distance, averaged over `words`. Part "example": the
    same for single random words, by the first head alone. None of them reaches position 0.
    """
    reading = run(model, corpus, [probe := LookBack(tuple(heads), REACH)], batch_size=batch_size)[probe]
    names, first = reading.along("head"), ".".join(map(str, heads[0]))
    ended, half = pieces_of_ended_words(corpus.words), word_half(corpus.tokens, corpus.words)
    judged = (half == 1) & (torch.arange(corpus.tokens.shape[1]) >= REACH)
    parts = list[pd.DataFrame]()
    for n in (1, *pieces):
        at = (ended == n) & judged
        parts.append(_means(reading.values, at, names).assign(part="pattern", pieces=n))
        of_first = reading.values[:, names.index(first)]
        parts += [one.assign(part="example", pieces=n, heads=first) for one in _examples(corpus, of_first, at)]
    return pd.concat(parts, ignore_index=True)


def _means(
    values: Float[Tensor, "sequence head query back"], at: Bool[Tensor, "sequence query"], names: Sequence[str]
) -> pd.DataFrame:
    """Means for every sequence that has such words."""
    words = at.sum(1)
    sums = torch.where(at[:, None, :, None], values, 0).double().sum(2)  # padded queries are NaN
    index = pd.MultiIndex.from_product([range(len(at)), names, range(REACH)], names=["sequence", "heads", "back"])
    table = index.to_frame(index=False).assign(
        words=words.repeat_interleave(len(names) * REACH).numpy(),
        attention=(sums / words.clamp(min=1)[:, None, None]).flatten().numpy(),
    )
    return table[table["words"] > 0]


def _examples(
    corpus: TokenCorpus, values: Float[Tensor, "sequence query back"], at: Bool[Tensor, "sequence query"]
) -> Iterator[pd.DataFrame]:
    """Different words, in seeded random order."""
    places, known = at.nonzero().numpy(), set[str]()
    for sequence, position in np.random.default_rng(0).permutation(places):
        if len(known) == _EXAMPLES:
            return
        word = next(one.word for one in corpus.word_spans(int(sequence)) if one.stop == position + 1)
        if word not in known:
            known.add(word)
            attention = values[sequence, position].double().numpy()
            yield pd.DataFrame({
                "sequence": sequence, "word": word, "back": range(REACH), "attention": attention, "words": 1,
            })  # fmt: skip


def pattern_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means of the first head's patterns over words: model, of (the head), metric, pieces, back, mean, low, high, n."""
    rows = where(table, part="pattern")
    if rows.empty:  # no word has enough tokens before it
        return pd.DataFrame(columns=["model", "of", "metric", "pieces", "back", "mean", "low", "high", "n"])
    firsts = where(table, part="example").drop_duplicates("model")[["model", "heads"]]
    rows = rows.merge(firsts, on=["model", "heads"]).assign(metric="pattern").astype({"pieces": int, "back": int})
    by = ["model", "heads", "metric", "pieces", "back"]
    return mean_with_interval(rows, "attention", by, weight="words").rename(columns={"heads": "of"})


def pattern_panels(summary: pd.DataFrame, table: pd.DataFrame) -> list[Panel]:
    """The mean pattern of the first head, and its attention at each of the drawn words."""
    means = where(summary, metric="pattern")
    if means.empty:
        return []
    layer, head = means["of"].iloc[0].split(".")
    numbers = sorted(means["pieces"].unique(), reverse=True)
    colours = dict(zip(numbers, (*_COLOURS[: len(numbers) - 1], GREY), strict=False))
    curves = [Curve("pattern", _words_of(n), colours[n], where={"pieces": n}) for n in numbers]
    axis = {"title_text": "tokens back from the word's last", "autorange": "reversed", "dtick": 1}
    panels = [Panel(f"L{layer}.H{head}: mean over words", curves, axis,
                    {"rangemode": "tozero", "title_text": "attention"})]  # fmt: skip
    examples = where(table, part="example")
    longest = int(examples["pieces"].max())
    shown = {n: where(examples, pieces=n) for n in dict.fromkeys((longest, 1))}
    highest = max(float(rows["attention"].max()) for rows in shown.values() if len(rows))
    for n, rows in shown.items():
        if len(rows):
            panels.append(Panel(f"L{layer}.H{head}: {_words_of(n)}, drawn at random", [_heat(rows, highest)], axis))
    return panels


def _words_of(n: int) -> str:
    return f"words of {n} tokens" if n > 1 else "words of one token"


def _heat(rows: pd.DataFrame, highest: float) -> go.Heatmap:
    grid = rows.pivot(index="word", columns="back", values="attention")
    return go.Heatmap(
        x=list(grid.columns), y=[plain(word) for word in grid.index], z=grid.to_numpy(), zmin=0, zmax=highest,
        colorscale="Viridis", colorbar={"title": {"text": "attention", "side": "right"}},
        hovertemplate="%{y}, %{x} back: %{z:.3f}<extra></extra>",
    )  # fmt: skip
