"""With more demonstrations, are label words still read, which ones, and do isolation and compression still work?

*Label Words are Anchors* shows one or two demonstrations per class. We show 0, 1, 2, 4, ... per class, as far as the
context and the data allow, and ask about the same texts. For each number of demonstrations we measure

- accuracy, and the share of unchanged predictions (label loyalty) when label words, or text tokens, are isolated in the
  first third of the layers, and when the query sees only the label words and the template (compression);
- *reading* in deep layers (the second half of the layers without the last): the saliency of the edges from label words
  to the target, relative to average edges; random text tokens are the null;
- which label words are read: the last half of the demonstrations against the first half (recency), and the predicted
  class against the others (majority).

Demonstrations are read once for all queries of a seed, and each query needs a gradient only for the target's row, so
time grows linearly with the number of demonstrations. Position 0, the attention sink, counts here as neither label word
nor text, but as one of the average edges.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.compression import on_anchors
from mechicl.engines.context import read_context
from mechicl.engines.last_token import up_to_target
from mechicl.engines.prefix import run_shared, shared_demonstrations
from mechicl.errors import DoesNotFit, InputError
from mechicl.figures import BLUE, GREEN, GREY, LABEL_COLOUR, ORANGE, PURPLE, SKY
from mechicl.hooks import Patch
from mechicl.metrics.objective import Objective
from mechicl.models import blockwise, hooked
from mechicl.patches.isolate import IsolateLabels, IsolateRandom
from mechicl.probes.enrichment import TOKEN_SETS, token_sets
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel
from mechicl.studies.parts import Material, Part
from mechicl.studies.summary import bands, by_metric, mean_with_interval
from mechicl.studies.twins import TWINS, AgainstTwins, against_twins, given
from mechicl.tasks import Task

_SOURCE = "beyond Label Words are Anchors, sections 2 and 3.2"
_AVERAGE = "times an average token's saliency"
READS = Claim(
    "shots-reading", "With many demonstrations, too, the prediction reads the label words.", _SOURCE,
    "excess reading of label words over random text in deep layers, with the most demonstrations", _AVERAGE, TWINS, 2.0,
)  # fmt: skip
RECENT = Claim(
    "shots-recency", "Of many label words, the last are read most.", _SOURCE,
    "reading of the last half of the label words minus the first half, with the most demonstrations", _AVERAGE, TWINS,
    0.5,
)  # fmt: skip
LEARNS = Claim(
    "shots-accuracy", "More demonstrations make predictions more accurate.", _SOURCE,
    "accuracy with the most demonstrations minus that with the fewest (one or more)", "accuracy", TWINS, 0.05,
)  # fmt: skip
_READINGS = ("reading", "reading_random_text", "reading_last", "reading_first", "reading_predicted", "reading_others")
_LOYALTIES = ("isolated", "isolated_random_text", "anchors_alone")
_LOSS = Objective("logit_difference", "predicted")


@dataclass(frozen=True)
class ShotSweep(AgainstTwins):
    """A row per prompt and number of demonstrations (`shots` of each class).

    Gold and predicted class, accuracy; label loyalty with label words isolated in the first third of the layers, with
    the same number of text tokens isolated, and with label words and template alone; reading in deep layers, times an
    average token: of label words, random text, the last and the first half of the label words, and those of the
    predicted class and of the others. Without demonstrations there is only accuracy.
    """

    counts: Annotated[
        tuple[int, ...], Switch("Demonstrations per class; counts that context or data cannot hold are reduced.", min=0)
    ] = (0, 1, 2, 4, 8, 16, 32)

    name = "shot-sweep"
    title = "More demonstrations"
    shows = "Accuracy, reading of label words, isolation and compression with 0 to 32 demonstrations per class."
    source = _SOURCE
    claim = "With more demonstrations, does reading stay in label words, and in which ones?"
    claims = (READS, RECENT, LEARNS)
    no_paper_protocol = "the paper shows one or two demonstrations per class"
    zero_shot = True
    across_shots = True
    demonstrations_once = True
    shared_options = {"samples": 32, "shots": None, "demonstrations": None}
    may_lack = (*_READINGS, *_LOYALTIES, "accuracy")
    each_twin_reads = 4

    def passes(self, n_layers: int) -> float:
        return 8

    def prompt_sets(self, task: Task, tokenizer: Any, *, seeds: Sequence[int], **options: Any) -> list[PromptSet]:
        """The prompts for every number of demonstrations and seed; those that do not fit are left out, with a warning.

        Raises:
            DoesNotFit: not even the fewest fit.
        """
        options.pop("shots", None)
        if (too_long := options.get("too_long", "refuse")) != "refuse":
            raise InputError(
                f"{self.name} asks about the same texts with every number of demonstrations, which too_long="
                f"{too_long!r} would change; leave it out, and numbers that do not fit are left out."
            )
        sets = list[PromptSet]()
        for shots in sorted(self.counts):
            try:
                sets += [self.prompts(task, tokenizer, shots=shots, seed=seed, **options) for seed in seeds]
            except DoesNotFit as error:
                if not sets:
                    raise
                warnings.warn(f"{task.name} is left out from {shots} per class on: {error}", stacklevel=2)
                return [one for one in sets if one.shots != shots]
        return sets

    def parts(self, material: Material) -> tuple[list[Part], dict[str, Any]]:
        parts, origin = super().parts(material)
        for part in parts:
            _number(part.labels["shots"])  # raises
        if not any(prompt.demonstrations for part in parts for prompt in part.material or ()):  # type: ignore[union-attr]
            raise InputError(
                f"{self.name} reads the demonstrations of its prompts, and these prompts have none; use shots=1 or "
                "more."
            )
        return parts, origin

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        return table["weights"] == "as given"

    def read(self, model: Any, material: PromptSet, batch_size: int) -> pd.DataFrame:
        table = self.of_twin(model, material, batch_size)
        if not all(prompt.demonstrations for prompt in material):
            return table.assign(**dict.fromkeys(_LOYALTIES, np.nan))
        layers = range(max(1, hooked(model).sizes.n_layers // 3))
        arms: dict[str, list[Patch]] = {
            "isolated": [IsolateLabels(layers)],
            "isolated_random_text": [IsolateRandom(layers, pool="demo_text", resample="per_seed")],
        }
        runs = {
            name: run_shared(model, material, patches=patches, batch_size=batch_size, progress=None)
            for name, patches in arms.items()
        }
        runs["anchors_alone"] = on_anchors(model, material, batch_size=batch_size)
        predicted = table["predicted"].to_numpy()
        return table.assign(**{name: (run.predicted.numpy() == predicted).astype(float) for name, run in runs.items()})

    def of_twin(self, model: Any, material: PromptSet, batch_size: int) -> pd.DataFrame:
        """Predictions and reading."""
        rows: dict[int, dict[str, float]] = {}
        for group in shared_demonstrations(material):
            if not material[group[0]].query_start:
                answers = run_shared(model, material.select(group), batch_size=batch_size, progress=None).predicted
                rows |= {i: {"predicted": int(answer)} for i, answer in zip(group, answers, strict=True)}
                continue
            context, net = read_context(model, material[group[0]]), blockwise(model, "shot-sweep")
            for i in group:
                edges, logits = up_to_target(net, material.select([i]), context).saliency(net, _LOSS)
                predicted = int(logits.argmax())
                rows[i] = {
                    "predicted": predicted,
                    **reading_of(material[i], edges.sum(1).abs().cpu().numpy(), predicted),
                }
        table = pd.DataFrame([rows[i] for i in range(len(material))], columns=["predicted", *_READINGS])
        gold = material.gold.numpy()
        right = np.where(gold >= 0, (table["predicted"] == gold).astype(float), np.nan)
        return table.assign(prompt=np.arange(len(material)), gold=gold, accuracy=right)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        shown = table[table["shots"].map(_number) > 0]
        fewest, most = (end(shown["shots"].map(_number)) for end in (min, max))
        if claim is not READS and fewest == most:
            return Evidence.nothing("This claim needs two numbers of demonstrations or more.")
        note = f"Demonstrations per class: at most {most:g}, at least {fewest:g}."
        if claim is LEARNS:
            if given(shown)["accuracy"].isna().any():
                return Evidence.nothing("Accuracy needs prompts whose class is known.")
            return against_twins(lambda rows: _gain(rows, fewest, most), shown, note=note)
        one, other = ("reading", "reading_random_text") if claim is READS else ("reading_last", "reading_first")
        longest = shown[shown["shots"].map(_number) == most]
        return against_twins(lambda rows: _by_prompt(rows.assign(value=rows[one] - rows[other])), longest, note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, task, shots, metric, mean, low, high, n (prompts), seeds. Only for the model as given."""
        rows = by_metric(given(table), ("accuracy", *_LOYALTIES, *_READINGS))
        return mean_with_interval(rows, "value", ["model", "task", "metric", "shots"])

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary().assign(shots=lambda rows: rows["shots"].map(_number).map("{:g}".format))
        panels = []
        for task in summary["task"].unique():
            where = {"task": task}
            panels += [
                Panel(f"{task}: predictions", [
                    Curve("accuracy", "accuracy", BLUE, where=where),
                    Curve("isolated", "loyalty, label words isolated", LABEL_COLOUR, where=where),
                    Curve("isolated_random_text", "loyalty, text isolated", GREY, where=where),
                    Curve("anchors_alone", "loyalty, label words and template alone", GREEN, "dash", where),
                ], _CATEGORIES, {"range": [0, 1.02], "title_text": "share of prompts"}),
                Panel(f"{task}: reading in deep layers", [
                    Level(1, GREY), Curve("reading", "label words", LABEL_COLOUR, where=where),
                    Curve("reading_random_text", "random text", GREY, where=where),
                ], _CATEGORIES, {"title_text": _AVERAGE}),
                Panel(f"{task}: which label words", [
                    Level(1, GREY), Curve("reading_last", "last half", PURPLE, where=where),
                    Curve("reading_first", "first half", SKY, where=where),
                    Curve("reading_predicted", "of the predicted class", ORANGE, "dash", where),
                    Curve("reading_others", "of the others", GREY, "dash", where),
                ], _CATEGORIES, {"title_text": _AVERAGE}),
            ]  # fmt: skip
        return Drawing(summary, panels, x="shots", x_title="demonstrations per class", note=bands(result.summary()))


_CATEGORIES = {"type": "category"}


def reading_of(prompt: Prompt, edges: np.ndarray, predicted: int) -> Mapping[str, float]:
    """Reading of sets of tokens in deep layers, times an average token; `edges` [layer key] lead to the target."""
    n_layers = len(edges)
    deep = edges[n_layers // 2 : max(n_layers - 1, n_layers // 2 + 1), : prompt.target]
    average = deep.mean(1)
    anchors, classes = np.array(prompt.anchors), np.array(prompt.anchor_classes)
    half = -(-len(anchors) // 2)
    same = classes == predicted
    sets = (
        anchors, token_sets(prompt)[TOKEN_SETS.index("random text")], anchors[half:], anchors[:half], anchors[same],
        anchors[~same],
    )  # fmt: skip

    def over_average(places: Sequence[int] | np.ndarray) -> float:
        if not len(places):
            return float("nan")
        of_set = deep[:, np.asarray(places)].mean(1)
        return float(np.divide(of_set, average, out=np.zeros_like(of_set), where=average > 0).mean())

    return dict(zip(_READINGS, map(over_average, sets), strict=True))


def _number(shots: Any) -> float:
    """Demonstrations per class; for unequal numbers, such as "4/1", the mean. "2 (1/0 mislabelled)" is 2.

    Raises:
        InputError: it is not known, because prompts of different numbers were joined.
    """
    counts = str(shots).split(" ")[0].split("/")
    if not all(count.isdigit() for count in counts):
        raise InputError(f"shot-sweep compares numbers of demonstrations, and these prompts have {shots}.")
    return float(np.mean([float(count) for count in counts]))


def _by_prompt(rows: pd.DataFrame) -> pd.Series[float]:
    """One value for each prompt; seeds as text."""
    rows = rows.assign(seed=rows["seed"].map(str)).dropna(subset="value")
    return rows.set_index(["seed", "demonstration_set", "prompt"])["value"]


def _gain(rows: pd.DataFrame, fewest: float, most: float) -> pd.Series[float]:
    """Gain in accuracy from fewest to most demonstrations."""
    by_count = {count: _by_prompt(rows[rows["shots"].map(_number) == count].assign(value=rows["accuracy"]))
                for count in (fewest, most)}  # fmt: skip
    gain: pd.Series[float] = (by_count[most] - by_count[fewest]).dropna()
    return gain
