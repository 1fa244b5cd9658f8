"""Evidence for claims: a contrast per sequence or prompt, over sampled units, against untrained twins.

A claim of *Stages of Inference* orders layers: one costs more than another, a curve rises. Such a contrast is a number
per sequence. Its interval is over documents, because sequences of one document are not independent; for prompts, over
demonstration sets. Random weights order layers, too (what a layer adds matters less once the residual has grown; with a
tied unembedding, the lens predicts the current token at the embedding). The effect is therefore the contrast less that
in untrained twins of the model, and the spread among twins is part of the interval.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from mechicl.claims import Evidence
from mechicl.declared import Switch
from mechicl.metrics.resampling import SetInterval, against_few, mean_over_sets
from mechicl.models import has_twin, untrained_twin
from mechicl.studies.parts import DOCUMENT, Part, set_names
from mechicl.studies.study import Condition, Study

TWINS = "the same in untrained models"
GIVEN, UNTRAINED = "as given", "untrained"
"""The model itself, and the beginning of its twins' names, in the column `weights`."""
Contrast = Callable[[pd.DataFrame], pd.Series]
"""A map from one model's rows to a number per sequence, indexed by document and sequence, or per prompt, indexed by
seed, demonstration set and prompt.
"""


@dataclass(frozen=True)
class AgainstTwins(Study):
    """Base of studies that test claims against untrained twins, which read a part of the text or of the prompts.

    The authors had no twins, and `protocol="paper"` has none.
    """

    untrained: Annotated[
        int,
        Switch(
            "Number of untrained twins, each run on part of the input; 0 leaves claims that need them undecided.", min=0
        ),
    ] = 4

    each_twin_reads: ClassVar[int | None] = 2
    """Sequences per part of the text, or prompts per set, for a twin, as twins differ more than texts. None: all."""

    least_read: ClassVar[int] = 1
    """If a twin's share would be smaller, it reads everything."""

    @property
    def twins_at_once(self) -> int:  # type: ignore[override]
        return int(self.untrained > 0 and self.protocol == "corrected")

    def conditions(self, model: Any) -> list[Condition]:
        seeds = range(self.untrained if has_twin(model) and self.protocol == "corrected" else 0)
        return [{"weights": GIVEN}, *({"weights": f"{UNTRAINED} {seed}"} for seed in seeds)]

    def measure(self, model: Any, material: Any, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        seed = seed_of(condition)
        if seed is None:
            return self.read(model, material, batch_size)
        share: Sequence[int] = range(len(material))
        if self.each_twin_reads is not None:
            step = max(1, len(material) // self.each_twin_reads)
            places = {(seed + step * one) % len(material) for one in range(self.each_twin_reads)}
            share = sorted(places) if len(places) >= self.least_read else share
        with untrained_twin(model, seed) as twin:
            rows = self.of_twin(twin, material.select(share), batch_size)
        place = "prompt" if self.reads == "prompts" else "sequence"
        return rows.assign(**{place: np.take(share, rows[place])})

    def _key(self, code: str, model_facts: Mapping[str, Any], part: Part, condition: Condition) -> dict[str, Any]:
        """More twins leave the cells of the model, and of the other twins, as they are."""
        key = super()._key(code, model_facts, part, condition)
        return key | {"settings": {name: value for name, value in key["settings"].items() if name != "untrained"}}

    def of_twin(self, model: Any, material: Any, batch_size: int) -> pd.DataFrame:
        """The rows of an untrained twin; a subclass may measure only what claims rest on."""
        return self.read(model, material, batch_size)

    @abstractmethod
    def read(self, model: Any, material: Any, batch_size: int) -> pd.DataFrame:
        """The rows of one model, trained or untrained."""


def seed_of(condition: Condition) -> int | None:
    """The seed of the measured twin; None for the model as given."""
    which = condition["weights"]
    return None if which == GIVEN else int(which.removeprefix(UNTRAINED))


def given(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the model as given; earlier versions saved no others."""
    return table[table["weights"] == GIVEN].drop(columns="weights") if "weights" in table else table


def against_twins(
    contrast: Contrast, table: pd.DataFrame, controls: np.ndarray | None = None, **more: Any
) -> Evidence:  # fmt: skip
    """A contrast of the model against that of its untrained twins; `more` is passed to `Evidence`.

    If the contrast is with a control that was drawn at random, `controls` are the means of its draws, whose spread is
    part of the interval.
    A twin in which the contrast is undefined does not count.
    """
    values = contrast(given(table))
    weights = table["weights"] if "weights" in table else pd.Series(GIVEN, table.index)
    means = [contrast(rows).mean() for name, rows in table.groupby(weights, sort=False) if name != GIVEN]
    twins = [float(mean) for mean in means if not np.isnan(mean)]
    if len(twins) < 2:
        undefined = f" (it is undefined in {len(means) - 1} of {len(means)})" if len(means) > 1 else ""
        why = f"One untrained twin does not show how far twins differ{undefined}; use more (untrained)."
        if not twins:
            why = f"The quantity is undefined in all {len(means)} untrained twins." if means else ""
        return of_documents(values, None, undecided=why, **more)
    raw = mean_over_sets(values.to_numpy(float), _sampled(values)[0], generator=np.random.default_rng(0))
    return of_documents(values, **beyond(raw if controls is None else against_few(raw, controls), twins), **more)


def beyond(raw: SetInterval, twins: Sequence[float]) -> dict[str, Any]:
    """What `Evidence` takes of a quantity with its interval, and of the same in two untrained twins or more.

    In the null, twins of the opposite sign count as 0: random weights can only weaken a claim, never support it. Their
    spread is that of what they are.
    """
    null = float(np.maximum(twins, 0).mean())
    effect = against_few(raw.less(null), np.array(twins))
    effect = effect._replace(high=min(effect.high, raw.high))  # the null is 0 or more, whatever the twins
    found: dict[str, Any] = {"null": null, "interval": effect, "alone": raw}
    if raw.low > 0 >= effect.low:
        negative = ", negative ones counted as 0" if min(twins) < 0 else ""
        size = f"{raw.mean:.3g} [{raw.low:.3g}, {raw.high:.3g}], in untrained models {null:.3g} on average{negative}"
        alike = f"Untrained models may show the same ({size})."
        apart = f"Too few untrained twins to rule out that these show the same ({size}); use more (untrained)."
        found["undecided"] = alike if max(twins) >= raw.low else apart
    return found


def against_draws(curves: pd.DataFrame, **more: Any) -> Evidence:
    """Per sequence, the ablated part (column -1) against draws of a control (the other columns).

    The interval is over documents, and includes the spread of the control's draws.
    """
    own, drawn = curves[-1], curves.drop(columns=-1)
    documents, _ = _sampled(own)
    beyond = (own - drawn.mean(axis=1)).to_numpy()
    effect = mean_over_sets(beyond, documents, generator=np.random.default_rng(0))
    return of_documents(
        own, drawn.mean(axis=1).to_numpy(), interval=against_few(effect, drawn.mean().to_numpy()), **more
    )


def of_documents(values: pd.Series, null: Any = 0.0, **more: Any) -> Evidence:
    """A contrast per sequence or prompt against one number, or a number for each."""
    return Evidence(values.to_numpy(float), null, *_sampled(values), **more)


def _sampled(values: pd.Series) -> tuple[np.ndarray, Literal["documents", "prompts"]]:
    """The document, or demonstration set, of each contrast, and the name of the sampled unit."""
    if DOCUMENT in values.index.names:
        return values.index.get_level_values(DOCUMENT).to_numpy(), "documents"
    return set_names(values.index), "prompts"


def by_layer(rows: pd.DataFrame, value: str, x: str = "layer") -> pd.DataFrame:
    """A row per document and sequence, a column per layer; heads and the like are averaged."""
    return with_documents(rows).pivot_table(index=[DOCUMENT, "sequence"], columns=x, values=value)


def with_documents(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column of documents: each sequence is one where an earlier version did not save them."""
    return rows if DOCUMENT in rows else rows.assign(**{DOCUMENT: rows["sequence"]})


def by_document(curves: pd.DataFrame) -> pd.DataFrame:
    """A row per document of the text, because its sequences are not independent."""
    return curves.groupby(level=DOCUMENT).mean()


def slope(curves: pd.DataFrame) -> pd.Series:
    """The rise of each sequence's least-squares line from the first layer to the last."""
    place = np.linspace(-0.5, 0.5, curves.shape[1])
    return pd.Series(curves.to_numpy() @ place / (place**2).sum(), curves.index)
