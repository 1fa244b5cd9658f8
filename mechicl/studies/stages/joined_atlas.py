"""Other studies' results about the stages as signatures of the atlas, so that boundaries rest on them, too.

- *Words retrieved* and *words lost by a cut* (inner lexicon): how much each layer raises retrieval of the word at its
  last piece, relative to the best control; and the loss of retrieval before the middle layer when attention inside
  words is cut in that layer alone (0 in later layers, which cannot change it).
- *Word sense* (Word in Context): a linear probe's accuracy after each layer, minus that with shuffled labels.
- *Votes* (voting): how often the votes of a layer's neurons have the right sign, above chance, summed over its neurons.

Each enters only if its study's claim is supported, that is, if it beats its own null there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.results import Result
from mechicl.studies.drawing import where
from mechicl.studies.parts import DOCUMENT
from mechicl.studies.stages.spelling_bench import CONTROLS
from mechicl.studies.twins import GIVEN

Curves = Iterator[tuple[str, pd.DataFrame]]
"""Names of signatures, and their values [unit layer]."""


@door
def joined_atlas(atlas: Result, results: Sequence[Result]) -> Result:
    """The atlas with signatures from results of the same model, and boundaries that rest on them, too.

    Args:
        atlas: result of `stages_atlas` for one model.
        results: results of any of `inner_lexicon`, `wic` and `voting`.

    Raises:
        InputError: a result is of another study, or of a different model.
    """
    if atlas.name != "stages-atlas" or not all(result.name in JOINED for result in results):
        names = [result.name for result in (atlas, *results)]
        raise InputError(f"Give a result of stages_atlas, and results of inner_lexicon, wic and voting; got {names}.")
    models = {str(model) for result in (atlas, *results) for model in result.table["model"].unique()}
    if len(models) != 1:
        raise InputError(f"The atlas and what is joined to it must be of one model; they are of {sorted(models)}.")
    (model,) = models
    n_layers = 1 + int(where(atlas.table, signature="drop KL")["layer"].max())
    tables, origin = [atlas.table], {}
    for result in results:
        claim, read = JOINED[result.name]
        if any(one.claim.id == claim and one.outcome == "supported" for one in result.claims):
            for name, values in read(result.table, n_layers):
                tables.append(_rows(name, values).assign(model=model, weights=GIVEN))
            origin[result.name] = dict(result.provenance)
    return Result(atlas.study, pd.concat(tables, ignore_index=True), {**atlas.provenance, "joined": origin})


def _rows(name: str, values: pd.DataFrame) -> pd.DataFrame:
    """Rows in the form of the atlas's table; units replace sequences and documents."""
    n, n_layers = values.shape
    place = {"sequence": np.repeat(range(n), n_layers), "layer": np.tile(range(n_layers), n)}
    return pd.DataFrame({"signature": name, **place, "value": values.to_numpy().flatten(), "weight": 1.0}).assign(
        **{DOCUMENT: place["sequence"]}
    )


def _of_words(table: pd.DataFrame, n_layers: int) -> Curves:
    pieces = int(where(table, arm="cut")["pieces"].min())
    retrieved = where(table, arm="spelling", quantity="retrieval", pieces=pieces)
    by_kind = {
        kind: rows.pivot(index="word", columns="point", values="value") for kind, rows in retrieved.groupby("kind")
    }
    best = max(CONTROLS, key=lambda kind: by_kind[kind].to_numpy().mean())
    yield "words retrieved", (by_kind["spelling"] - by_kind[best]).diff(axis=1).iloc[:, 1:]
    cut = where(table, arm="cut")
    lost = where(cut, kind="within").pivot(index="word", columns="point", values="value")
    clean = where(cut, kind="nothing").set_index("word")["value"]
    yield "words lost by a cut", lost.rsub(clean, axis=0).reindex(columns=range(n_layers), fill_value=0.0)


def _of_senses(table: pd.DataFrame, n_layers: int) -> Curves:
    probe, control = (
        where(table, probe=name).pivot(index="prompt", columns="point", values="correct").astype(float)
        for name in ("probe", "control")
    )
    yield "word sense", (probe - control).iloc[:, 1:]


def _of_votes(table: pd.DataFrame, n_layers: int) -> Curves:
    votes = where(table, what="single vote", kind="prediction")
    over_chance = votes.assign(value=votes["accuracy"] - 0.5)
    values = over_chance.pivot_table(index="sequence", columns="layer", values="value", aggfunc="sum")
    yield "votes", values.reindex(columns=range(n_layers), fill_value=0.0).fillna(0.0)


JOINED: Mapping[str, tuple[str, Callable[[pd.DataFrame, int], Curves]]] = {
    "inner-lexicon": ("inner-lexicon", _of_words), "wic": ("sense-rises", _of_senses),
    "voting": ("neurons-vote", _of_votes),
}  # fmt: skip
"""By study, the claim that must be supported and the reader of its signatures."""
