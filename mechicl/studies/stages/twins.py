"""What claims on running text are decided by: contrasts of each sequence, over documents, against untrained twins.

A claim of *Stages of Inference* orders layers: one costs more than another, a curve rises. Such a contrast is a number
for each sequence. Its interval comes from documents, because sequences of one document are not independent. Random
weights have an order of layers, too (what a layer adds to a residual that has grown matters less; a tied unembedding
begins sure of the token that was read). Where they do, the effect is the contrast less that in untrained twins of the
model, and how far twins differ among themselves is part of the interval.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from mechicl.claims import Evidence
from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.metrics.resampling import against_few, mean_over_sets
from mechicl.models import has_twin, untrained_twin
from mechicl.studies.parts import DOCUMENT
from mechicl.studies.study import Condition, Study

TWINS = "the same in untrained models"
_GIVEN, _UNTRAINED = "as given", "untrained"
Contrast = Callable[[pd.DataFrame], pd.Series]
"""From rows of one model to a number for each sequence, indexed by document and sequence."""


@dataclass(frozen=True)
class AgainstTwins(Study):
    """Common to studies of text whose claims are held against untrained twins, which read a part of the text.

    The authors had no twins, and `protocol="paper"` has none.
    """

    untrained: Annotated[
        int, Switch("Untrained twins of the model, which read some of the text; 0 leaves claims undecided.", min=0)
    ] = 4

    each_twin_reads: ClassVar[int | None] = 2
    """Sequences of every part of the text: twins differ more than texts. None: all of them."""

    @property
    def twins_at_once(self) -> int:  # type: ignore[override]
        return int(self.untrained > 0 and self.protocol == "corrected")

    def conditions(self, model: Any) -> list[Condition]:
        seeds = range(self.untrained if has_twin(model) and self.protocol == "corrected" else 0)
        return [{"weights": _GIVEN}, *({"weights": f"{_UNTRAINED} {seed}"} for seed in seeds)]

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        if condition["weights"] == _GIVEN:
            return self.read(model, corpus, batch_size)
        seed = int(condition["weights"].removeprefix(_UNTRAINED))
        share = range(len(corpus))
        if self.each_twin_reads is not None:
            share = share[seed % len(corpus) :: self.untrained][: self.each_twin_reads]
        with untrained_twin(model, seed) as twin:
            rows = self.of_twin(twin, corpus.select(share), batch_size)
        return rows.assign(sequence=np.take(share, rows["sequence"]))

    def of_twin(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        """The rows of an untrained twin: of what claims rest on, where reading less is quicker."""
        return self.read(model, corpus, batch_size)

    @abstractmethod
    def read(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        """The rows of one model, trained or not."""


def given(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the model as given; earlier versions saved no others."""
    return table[table["weights"] == _GIVEN].drop(columns="weights") if "weights" in table else table


def against_twins(contrast: Contrast, table: pd.DataFrame, **more: Any) -> Evidence:
    """A contrast of the model against that of its untrained twins; `more` is of `Evidence`.

    Twins of the opposite sign count as 0: what random weights do can speak against a claim, never for it.
    """
    values = contrast(given(table))
    weights = table["weights"] if "weights" in table else pd.Series(_GIVEN, table.index)
    twins = [max(0.0, contrast(rows).mean()) for name, rows in table.groupby(weights, sort=False) if name != _GIVEN]
    if len(twins) < 2:
        why = "A single untrained twin does not show how far twins differ; take two or more." if twins else ""
        return of_documents(values, None, undecided=why, **more)
    documents, null = values.index.get_level_values(DOCUMENT).to_numpy(), float(np.mean(twins))
    raw = mean_over_sets(values.to_numpy(), documents, generator=np.random.default_rng(0))
    shifted = raw._replace(mean=raw.mean - null, low=raw.low - null, high=raw.high - null)
    effect = against_few(shifted, np.array(twins))
    if raw.low > 0 >= effect.low:
        size = f"{raw.mean:.3g} [{raw.low:.3g}, {raw.high:.3g}], in untrained models {null:.3g}"
        return of_documents(values, null, undecided=f"Random weights may show the same ({size}).", **more)
    return of_documents(values, null, interval=effect, **more)


def against_draws(curves: pd.DataFrame, **more: Any) -> Evidence:
    """What was ablated (column -1) against draws of a control (the other columns), of each sequence.

    The interval is over documents, and holds what another draw of the control might have given.
    """
    own, drawn = curves[-1], curves.drop(columns=-1)
    documents = own.index.get_level_values(DOCUMENT).to_numpy()
    beyond = (own - drawn.mean(axis=1)).to_numpy()
    effect = mean_over_sets(beyond, documents, generator=np.random.default_rng(0))
    return of_documents(
        own, drawn.mean(axis=1).to_numpy(), interval=against_few(effect, drawn.mean().to_numpy()), **more
    )


def of_documents(values: pd.Series, null: Any = 0.0, **more: Any) -> Evidence:
    """A contrast of each sequence against a number, or a number of each."""
    documents = values.index.get_level_values(DOCUMENT).to_numpy()
    return Evidence(values.to_numpy(float), null, documents, "documents", **more)


def by_layer(rows: pd.DataFrame, value: str, x: str = "layer") -> pd.DataFrame:
    """A row for each document and sequence, a column for each layer; heads and the like are averaged."""
    if DOCUMENT not in rows:  # an earlier version did not save them
        rows = rows.assign(**{DOCUMENT: rows["sequence"]})
    return rows.pivot_table(index=[DOCUMENT, "sequence"], columns=x, values=value)


def slope(curves: pd.DataFrame) -> pd.Series:
    """By how much each sequence's least-squares line rises from the first layer to the last."""
    place = np.linspace(-0.5, 0.5, curves.shape[1])
    return pd.Series(curves.to_numpy() @ place / (place**2).sum(), curves.index)
