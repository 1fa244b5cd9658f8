"""Word in Context (section 5.2, Fig. 7 and 18): at which depth does a word's representation encode its sense?

Two sentences share a word: is it used in the same sense? At every depth a linear probe answers from the residuals h1
and h2 at the word's last token. The paper says that its accuracy rises, peaks in middle layers and falls in every
family; it gives neither numbers nor code, and does not say how h1 and h2 are combined, which of the word's tokens is
used, how the probe is regularised, or what data it is tested on. So there is no protocol "paper". Our linear probe uses
[h1, h2, |h1 - h2|, h1 * h2], standardised, and L2 logistic regression with C chosen by cross-validation on the training
pairs (no word is on both sides of a fold); it is tested on dev pairs.

We add a linear probe on cos(h1, h2) alone, and a control: the same probe fitted to shuffled labels, which must be at
chance. A causal model sees nothing after the word, so one of the two uses often has little context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.corpora import WordPairs
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREY, INK, ORANGE
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.probes import LastResidual
from mechicl.progress import progress
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.ensembles import BoolArray, FloatArray, linear_probe
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import mean_with_interval, plateau_in_words

_SOURCE, _NULL = "Stages of Inference, section 5.2, Fig. 7 and 18", "the same with shuffled labels"
_QUANTITY = "accuracy in the middle half of the depths, minus that in the {} quarter"
RISES = Claim(
    "sense-rises", "A word's sense is easier to read in middle layers than in the first.", _SOURCE,
    _QUANTITY.format("first"), "of pairs", _NULL, 0.02,
)  # fmt: skip
DECLINES = Claim(
    "sense-declines", "A word's sense is easier to read in middle layers than in the last.", _SOURCE,
    _QUANTITY.format("last"), "of pairs", _NULL, 0.02,
)  # fmt: skip
_READ_AT_ONCE = 2**30
"""Bytes of residuals held at a time; a deep model runs several times, for a few depths at once."""
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FOLDS = 3
_CURVES = (
    Curve("probe", "linear probe", BLUE),
    Curve("cosine", "cosine alone", ORANGE),
    Curve("control", "control: shuffled labels", GREY, "dot"),
)


@dataclass(frozen=True)
class Wic(Study):
    """Whether each dev pair is classified correctly: a row per dev pair, depth and linear probe."""

    seed: Annotated[int, Switch("Seed of the folds and of the control's labels.", min=0)] = 0

    name = "wic"
    title = "Word in context"
    shows = "At which depth a linear probe predicts whether a word has the same sense in two sentences."
    source = "Stages of Inference, section 5.2, Fig. 7 and 18"
    claim = "Linear-probe accuracy for a word's sense rises, peaks in middle layers, and declines."
    claims = (RISES, DECLINES)
    reads = "pairs"
    no_paper_protocol = "the paper does not say how it probed"
    batch_size = 32

    def measure(self, model: Any, pairs: WordPairs, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        sizes = hooked(model).sizes
        n_points = sizes.n_layers + 1
        at_once = max(1, _READ_AT_ONCE // (8 * len(pairs) * sizes.d_model))
        tables = []
        with progress("depths", n_points) as advance:
            for start in range(0, n_points, at_once):
                points = tuple(range(start, min(start + at_once, n_points)))
                probe = LastResidual(points)
                residuals = run(model, pairs.sentences, [probe], batch_size=batch_size, progress=None)[probe].values
                for place, point in enumerate(points):
                    vectors = residuals[:, place].double().numpy()
                    tables.append(self._probed(vectors[::2], vectors[1::2], pairs).assign(point=point))
                    advance(1)
        return pd.concat(tables, ignore_index=True)

    def _probed(self, first: FloatArray, second: FloatArray, pairs: WordPairs) -> pd.DataFrame:
        """A row per dev pair and probe, at one depth."""
        train, dev = pairs.places("train"), pairs.places("dev")
        labels = np.array([pair.same for pair in pairs.pairs])
        words = [pairs.pairs[i].word.casefold() for i in train]
        features = np.concatenate([first, second, np.abs(first - second), first * second], 1)
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosine = ((first * second).sum(1) / np.maximum(norms, 1e-30))[:, None]
        shuffled = np.random.default_rng(self.seed).permutation(labels[train])
        penalty = chosen_penalty(features[train], labels[train], words, self.seed)
        answers = {
            "probe": (penalty, _predicted(features, train, dev, labels[train], penalty)),
            "cosine": (1.0, _predicted(cosine, train, dev, labels[train], 1.0)),
            "control": (penalty, _predicted(features, train, dev, shuffled, penalty)),
        }
        same = labels[dev]
        tables = [
            pd.DataFrame({"prompt": dev, "word": [pairs.pairs[i].word.casefold() for i in dev], "probe": name,
                          "penalty": c, "same": same, "correct": predicted == same})
            for name, (c, predicted) in answers.items()
        ]  # fmt: skip
        return pd.concat(tables)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        probe, control = (_by_point(where(table, probe=name)) for name in ("probe", "control"))
        n, quarter = probe.shape[1], max(1, probe.shape[1] // 4)
        if n < 3:
            return Evidence.nothing("This claim needs a model of two layers or more.")
        ends = slice(quarter) if claim is RISES else slice(n - quarter, n)
        contrasts = [one[:, quarter : n - quarter].mean(1) - one[:, ends].mean(1) for one in (probe, control)]
        best = f"({probe.mean(0).max():.0%})."
        if "word" not in table:  # earlier versions did not save it
            note = f"Accuracy is {plateau_in_words(probe, range(n))} {best}"
            return Evidence(contrasts[0], contrasts[1], np.arange(len(probe)), "pairs", note=note)
        words = where(table, probe="probe", point=0).sort_values("prompt")["word"].to_numpy(str)
        of_word = pd.DataFrame(probe).groupby(words).mean().to_numpy()  # pairs of a word are alike
        note = f"Accuracy is {plateau_in_words(of_word, range(n))} {best}"
        return Evidence(contrasts[0], contrasts[1], words, "words", note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracy on dev pairs: model, metric (probe, cosine, control, majority), point, mean, low, high, n, seeds."""
        rows = table.assign(metric=table["probe"], value=table["correct"].astype(float))
        means = mean_with_interval(rows, "value", ["model", "metric", "point"])
        same = where(table, probe="probe").groupby(["model", "point"], as_index=False)["same"]
        shares: pd.DataFrame = same.agg(mean="mean", n="size")  # type: ignore[assignment]
        larger = np.maximum(shares["mean"], 1 - shares["mean"])
        majority = shares.assign(mean=larger, metric="majority", low=np.nan, high=np.nan, seeds=1)
        return pd.concat([means, majority], ignore_index=True)

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        majority = where(summary, metric="majority")["mean"].iloc[0]
        return Drawing(
            summary, [Panel("is it the same sense?", [*_CURVES, Level(majority, INK, "larger class alone", "dash")])],
            x="point", x_title="residual before layer", y_title="accuracy",
            note=f"{int(summary['n'].iloc[0])} dev pairs; band: 95 % interval over pairs",
        )  # fmt: skip

    def details(self, result: Result) -> list[str]:
        mean = result.summary().set_index(["metric", "point"])["mean"]
        return [
            *super().details(result),
            f"On average over depths: linear probe {mean['probe'].mean():.0%}, cosine {mean['cosine'].mean():.0%}, "
            f"shuffled labels {mean['control'].mean():.0%}; larger class alone {mean['majority'].iloc[0]:.0%}.",
        ]


def _by_point(rows: pd.DataFrame) -> FloatArray:
    """Whether each dev pair is classified correctly at each depth, [pair point]."""
    return rows.pivot(index="prompt", columns="point", values="correct").to_numpy(float)


def chosen_penalty(features: FloatArray, labels: BoolArray, groups: Sequence[str], seed: int) -> float:
    """The C of the best cross-validated accuracy, with no group (word) on both sides of a fold."""
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    folds = min(_FOLDS, len(set(groups)))
    if folds < 2:
        raise InputError("The training pairs have a single word; choosing the probe's penalty needs at least 2.")
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    choices = {"logisticregression__C": list(_PENALTIES)}
    search = GridSearchCV(linear_probe(max_iter=2000), choices, cv=split, refit=False)
    search.fit(features, labels, groups=groups)
    return float(search.best_params_["logisticregression__C"])


def _predicted(features: FloatArray, train: list[int], dev: list[int], labels: BoolArray, penalty: float) -> BoolArray:
    probe = linear_probe(C=penalty, max_iter=2000)
    return np.asarray(probe.fit(features[train], labels).predict(features[dev]), dtype=bool)
