"""One study on several models, or on checkpoints of one model: a table, a figure, and verdicts per model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.claims import Verdict, Verdicts
from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.results import Result
from mechicl.studies.models_figure import draw_models
from mechicl.studies.study import Study

_PER_MODEL = ("prompts", "text", "pairs", "benchmarks", "surroundings", "machine", "workers", "seconds")
"""Fields of provenance that belong to one model's run."""


@dataclass(frozen=True)
class Several:
    """A study that reports on a result of several models: each by itself, then side by side."""

    study: Study

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def title(self) -> str:
        return self.study.title

    @property
    def source(self) -> str:
        return self.study.source

    @property
    def claim(self) -> str:
        return self.study.claim

    @property
    def protocol(self) -> str:
        return self.study.protocol

    def each(self, result: Result) -> dict[str, Result]:
        """The results by model name."""
        return {
            str(facts["name"]): Result(
                self.study,
                result.table[result.table["model"] == facts["name"]].reset_index(drop=True),
                {**result.provenance, **own, "model": facts},
            )
            for facts, own in zip(result.provenance["model"], result.provenance["each"], strict=True)
        }

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """The summaries of all models, one after the other."""
        by_model = [rows.reset_index(drop=True) for _, rows in table.groupby("model", sort=False)]
        return pd.concat([self.study.summary(rows) for rows in by_model], ignore_index=True)

    def verdicts(self, result: Result) -> Verdicts:
        verdicts = OfModels(verdict for one in self.each(result).values() for verdict in one.claims)
        verdicts.counted = _counted(result.provenance["model"])
        return verdicts

    def figure(self, result: Result) -> go.Figure:
        """Curves over layers by relative depth, and for checkpoints by training step; anything else side by side."""
        return draw_models(self.study, self.each(result))

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        return {
            f"{caption}, {name}": table
            for name, one in self.each(result).items()
            for caption, table in self.study.tables(one).items()
        }

    def finding(self, result: Result) -> str:
        """What each model shows besides the verdicts."""
        each = {name: self.study.finding(one) for name, one in self.each(result).items()}
        return " ".join(f"{name}: {said}" for name, said in each.items() if said)

    def details(self, result: Result) -> list[str]:
        """Further numbers of each model, prefixed with its name."""
        return [f"{name}: {text}" for name, one in self.each(result).items() for text in one.details()]

    def remarks(self, result: Result, rows: pd.DataFrame) -> list[str]:
        """Limits of the samples, each prefixed with its model's name."""
        return [
            f"{name}: {said}"
            for name, one in self.each(result).items()
            for said in self.study.remarks(one, rows[rows["model"] == name])
        ]

    def save_more(self, result: Result, folder: Path) -> None:
        """Save what the study keeps in addition to its table, one folder per model."""
        for name, one in self.each(result).items():
            self.study.save_more(one, folder / re.sub(r"[^\w.-]+", "_", name))


class OfModels(Verdicts):
    """Verdicts on several models; in words, each claim with the number of models that support it in every case."""

    counted: str = "models"
    """What is counted: models, texts, or both."""

    def counted_in_words(self) -> str:
        return " ".join(map(self._in_words, self._of_claims()))

    def _in_words(self, verdicts: Sequence[Verdict]) -> str:
        """Such as "Supported on 2 of 3 models (a, b); undecided on c: the claim"."""
        if any("model" not in one.about for one in verdicts):  # a claim that compares models, or a table of 0.1.0
            return super()._in_words(verdicts)
        by = [name for name in ("model", "task", "shots") if len({one.about.get(name) for one in verdicts}) > 1]
        models = list(dict.fromkeys(one.about["model"] for one in verdicts))
        less = {one.about["model"] for one in verdicts if one.outcome != "supported"}
        supporting = [name for name in models if name not in less]
        places: dict[str, list[str]] = {}
        for one in verdicts:
            if one.about["model"] in less:
                places.setdefault(one.outcome, []).append(" ".join(one.about[name] for name in by if name in one.about))
        everywhere = " in every case" if len(by) > 1 else ""  # every task and number of demonstrations
        named = f" ({', '.join(supporting)})" if supporting else ""
        first = f"Supported{everywhere} on {len(supporting)} of {len(models)} {self.counted}{named}"
        rest = [f"{outcome} on {', '.join(on)}" for outcome, on in places.items()]
        return f"{'; '.join([first, *rest])}: {verdicts[0].claim.sentence}"


def _counted(models: Sequence[Mapping[str, Any]]) -> str:
    """What verdicts are counted over: a model on several texts has a name for each."""
    if not any("model" in facts for facts in models):
        return "models"
    return "texts" if len({facts.get("model", facts["name"]) for facts in models}) == 1 else "pairs of model and text"


@door
def compare_models(results: Sequence[Result]) -> Result:
    """Combine results of one study on several models: one table, one figure, verdicts for each model.

    Args:
        results: results of the same study with the same switches, one per model.

    Raises:
        InputError: there are no results, studies or switches differ, or two models have the same name.
    """
    if not results:
        raise InputError("There are no results to compare; give one for each model.")
    if any(not isinstance(one.study, Study) for one in results):
        raise InputError("One of the results is of several models already; give results of one model each.")
    study = results[0].study
    if not isinstance(study, Study) or any(one.study.name != study.name for one in results):
        raise InputError("Results of several models are compared for one study; give those of one study.")
    settings = [dict(one.provenance.get("settings", {})) for one in results]
    known = [name for name in settings[0] if all(name in one for one in settings)]  # earlier versions had fewer
    if differing := [name for name in known if len({str(one[name]) for one in settings}) > 1]:
        raise InputError(f"The results differ in {', '.join(differing)}; run the study with the same switches.")
    models = [dict(one.provenance["model"]) for one in results]
    names = [str(facts["name"]) for facts in models]
    check_names(names)
    if len(results) == 1:
        return results[0]
    each = [{name: one.provenance[name] for name in _PER_MODEL if name in one.provenance} for one in results]
    facts: Mapping[str, Any] = {**results[0].provenance, "model": models, "each": each}
    facts = {**facts, "seconds": round(sum(one.provenance.get("seconds", 0) for one in results), 2)}
    return explained(Result(study, pd.concat([one.table for one in results], ignore_index=True), facts))


def check_names(names: Sequence[str]) -> None:
    """Reject models, or models on texts, of the same name."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"Two of the models or texts are called {twice[0]}; give folders, revisions or files of different names."
        )


def explained(result: Result) -> Result:
    """The result with a study that reports per model, if it has several models."""
    several = isinstance(result.provenance.get("model"), list) and "each" in result.provenance
    return replace(result, study=Several(result.study)) if several and isinstance(result.study, Study) else result
