"""The base class of studies: a frozen set of switches that can be measured, summarised and drawn."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go

from mechicl.claims import Claim, Evidence, Verdict, Verdicts, decide
from mechicl.declared import INPUTS, RESERVED, Reads, Switch, check_values
from mechicl.engines.wavefront import RESIDUAL_BYTES
from mechicl.errors import InputError, check_count
from mechicl.figures import BLUE
from mechicl.models import Adapter, hooked
from mechicl.prompts import PromptSet
from mechicl.results import Cells, Result
from mechicl.studies.checking import next_checked
from mechicl.studies.drawing import Curve, Drawing, Panel, draw
from mechicl.studies.estimate import Estimate, estimate, sequence_lengths
from mechicl.studies.parts import DEMONSTRATION_SET, Material, Part, check_same_tokenizers, parts_of
from mechicl.studies.running import Helpers, run
from mechicl.studies.sampled import remarks_on
from mechicl.tasks import Task
from mechicl.versions import computing

Protocol = Literal["paper", "corrected"]
Condition = Mapping[str, Any]
_NO_SETS = "An earlier version saved the table without demonstration sets; run the study again."

STUDIES: dict[str, type[Study]] = {}
"""Every study by name, including a user's own; a class registers itself when it is defined."""


@dataclass(frozen=True)
class Study(ABC):
    """One experiment. Its fields are its switches; class attributes describe it.

    `protocol="paper"` does what the authors' code does, `"corrected"` fixes its known problems. A subclass with a
    `name` is registered for `mi.load_result`, reports, and the command line.
    """

    protocol: Annotated[Protocol, Switch("corrected, or paper (reproduces the authors' code).")] = "corrected"

    name: ClassVar[str]
    title: ClassVar[str]
    shows: ClassVar[str] = ""
    """What its figure and table show, in one line."""
    source: ClassVar[str]
    """Section and figure of the paper."""
    claim: ClassVar[str]
    """The paper's claim, in one sentence."""
    claims: ClassVar[tuple[Claim, ...]] = ()
    """Claims with a verdict; `evidence` gives the numbers that decide each."""
    reads: ClassVar[Reads] = "prompts"
    """The kind of input it reads."""
    no_paper_protocol: ClassVar[str] = ""
    """Why there is no protocol "paper"; empty if there is one."""
    may_lack: ClassVar[tuple[str, ...]] = ()
    """Columns in which NaN means "undefined"; in any other column it is an error."""
    batch_size: ClassVar[int | None] = 16
    """Initial number of prompts or sequences per pass; None if it makes no batches."""
    shared_options: ClassVar[Mapping[str, Any]] = {}
    """This study's own defaults of shared command-line options; None removes the option from its command."""
    zero_shot: ClassVar[bool] = False
    """Whether it accepts prompts without demonstrations."""
    across_shots: ClassVar[bool] = False
    """Whether its claims pool all numbers of demonstrations."""
    twins_at_once: ClassVar[int] = 0
    """Largest number of untrained twins in memory at once, in addition to the model."""
    not_measured: ClassVar[tuple[str, ...]] = ()
    """Switches that affect conclusions but not measurements, so cells do not depend on them. Not inherited."""
    measures_time: ClassVar[bool] = False
    """Whether it measures time, so nothing else may run on the machine."""
    sweeps: ClassVar[bool] = False
    """Whether it keeps the last residuals of all its passes over a batch, to compare them with the clean model's."""
    gradients: ClassVar[bool] = False
    """Whether activations are kept for a backward pass, which takes more memory."""
    demonstrations_once: ClassVar[bool] = False
    """Whether demonstrations are read once for all their queries, which alone are read in batches."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Switches that older saved results know by another name: old name to new name."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls):
            _register(cls)

    def __post_init__(self) -> None:
        check_values(self)
        if self.no_paper_protocol and self.protocol == "paper":
            raise InputError(f"The study {self.name} has no protocol 'paper': {self.no_paper_protocol}.")

    @property
    def shares_prompts(self) -> bool:
        """Whether it takes a task's prompts as they are, so that other studies may use the same."""
        return (type(self).prompts, type(self).prompt_sets) == (Study.prompts, Study.prompt_sets)

    @property
    def sequences_a_cell(self) -> int:
        """Number of sequences of running text that are measured and stored together."""
        return 32

    def prompts(self, task: Task, tokenizer: Any, **options: Any) -> PromptSet:
        """The prompts it runs on: `task.prompts`, with demonstrations drawn as its command draws them by default."""
        options.setdefault("demonstrations", self.shared_options.get("demonstrations") or "per_seed")
        return task.prompts(tokenizer, **options)

    def prompt_sets(self, task: Task, tokenizer: Any, *, seeds: Sequence[int], **options: Any) -> list[PromptSet]:
        """Prompts of several seeds to average over; whatever should not differ between seeds is the same."""
        return [self.prompts(task, tokenizer, seed=seed, **options) for seed in seeds]

    def for_model(self, model: Any) -> Study:
        """The study with model-dependent defaults replaced by plain values."""
        return self

    def for_material(self, material: Material) -> Study:
        """The study without the parts that this material cannot provide."""
        return self

    def settings(self) -> dict[str, Any]:
        """Its switches as plain values, for cells and provenance; any other value is represented by its digest."""
        return asdict(self)

    def conditions(self, model: Any) -> list[Condition]:
        """The conditions, each of which is measured and stored as its own cell."""
        return [{}]

    def passes(self, n_layers: int) -> float:
        """Passes of all its material through the model, to within a factor of three; a gradient counts as two more."""
        return 1

    def estimate(self, model: Any, material: Material = None, *, batch_size: int | None = None) -> Estimate:
        """The memory and time that `run` will take, to an order of magnitude.

        Memory is computed from sizes. Time is that of one short pass, timed here, times the study's `passes`.

        Raises:
            InputError: the material is of another kind or another tokenizer, or not even one sequence fits into free
                memory.
        """
        batch_size = self._passed_at_once(batch_size)
        if (study := self.for_model(model)) is not self:
            return study.estimate(model, material, batch_size=batch_size)
        net, (parts, _) = hooked(model), self.parts(material)
        check_same_tokenizers(net, parts)
        self.conditions(model)  # raises if the switches do not suit this model
        return estimate(net, self.lengths(parts), self.passes(net.sizes.n_layers), **self.memory(net, batch_size))

    def held_bytes(self, net: Adapter, tokens: int) -> int:
        """Bytes that it keeps per batch of this many tokens, on top of a forward pass."""
        n_streams = int(self.passes(net.sizes.n_layers)) if self.sweeps else 0
        residuals = n_streams * tokens * net.sizes.d_model * net.dtype.itemsize
        return 2 * min(RESIDUAL_BYTES, residuals)  # sorted by position, they exist twice

    def lengths(self, parts: Sequence[Part]) -> list[int]:
        """Tokens of each sequence that it reads."""
        return [n for part in parts for n in sequence_lengths(part.material, self.demonstrations_once)]

    def memory(self, net: Adapter, batch_size: int) -> dict[str, Any]:
        """What its memory depends on in addition to the longest sequence."""
        batch_size = 1 if self.demonstrations_once else batch_size
        kept = {"twins": self.twins_at_once, "held": partial(self.held_bytes, net)}
        return {"batch_size": batch_size, "gradients": self.gradients, **kept}

    def _passed_at_once(self, batch_size: int | None) -> int:
        """Prompts or sequences per pass: the given number, or the study's initial one."""
        check_count("batch_size", batch_size := self.batch_size or 1 if batch_size is None else batch_size)
        return batch_size

    @abstractmethod
    def measure(self, model: Any, prompts: Any, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        """One row per observation.

        Rows have a column `prompt` or `sequence`: the index in the measured prompt set or corpus.
        """

    def measure_all(
        self, model: Any, prompts: Any, conditions: Sequence[Condition], *, batch_size: int
    ) -> Iterator[pd.DataFrame]:
        """The tables of several conditions, in order; work that conditions share may be done once."""
        for condition in conditions:
            yield self.measure(model, prompts, condition, batch_size=batch_size)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """The evidence for one of its claims; `table` holds the rows of one model, task and number of shots."""
        raise NotImplementedError(f"{self.name} declares the claim {claim.id}, and gives no evidence for it")

    def verdicts(self, result: Result) -> Verdicts:
        """The verdict on each claim, on each model and task."""
        if self.reads == "prompts" and "prompt" in result.table and DEMONSTRATION_SET not in result.table:
            old = Evidence.nothing(_NO_SETS, limits=self.remarks(result, result.table))
            about = {"study": self.name, "protocol": self.protocol}
            return Verdicts(decide(claim, old, about) for claim in self.claims)
        by = [name for name in ("model", "task", *(() if self.across_shots else ("shots",))) if name in result.table]
        verdicts = []
        for values, rows in result.table.groupby(by, sort=False, dropna=False):
            facts = {"study": self.name, "protocol": self.protocol, **dict(zip(by, map(str, values), strict=True))}
            remarks = self.remarks(result, rows)
            verdicts += [self._verdict(claim, rows, facts, remarks) for claim in self.claims]
        return Verdicts(verdicts)

    def remarks(self, result: Result, rows: pd.DataFrame) -> list[str]:
        """Limits of the sample (rows of the table) that qualify a finding, one sentence each."""
        said = remarks_on(result.provenance, rows, rows[self.is_clean(rows)])
        model = result.provenance.get("model")
        folded = self.shared_options.get("processing") == "fold"
        if folded and self.protocol == "paper" and isinstance(model, Mapping) and model.get("processing") == "none":
            said.append("The authors fold the weights (processing='fold'); these are unprocessed, so numbers differ.")
        return said

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        """Mask of the rows that hold predictions of the clean model."""
        return pd.Series(False, table.index)

    def _verdict(self, claim: Claim, rows: pd.DataFrame, facts: Mapping[str, str], remarks: Sequence[str]) -> Verdict:
        try:
            evidence = self.evidence(claim, rows)
        except InputError as error:  # these rows lack a needed number
            evidence = Evidence.nothing(str(error))
        verdict = decide(claim, evidence, facts)
        return replace(verdict, limits=tuple(dict.fromkeys((*verdict.limits, *remarks))))

    @abstractmethod
    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Figure data: a row per point, with mean, low and high."""

    def drawing(self, result: Result) -> Drawing:
        """The contents of its figure: by default one panel per metric, by layer."""
        summary = result.summary()
        metrics = summary["metric"].unique()
        return Drawing(summary, [Panel(metric, [Curve(metric, metric, BLUE)]) for metric in metrics])

    def figure(self, result: Result) -> go.Figure:
        """The paper's figure, drawn from a result alone."""
        drawing = self.drawing(result)
        models = ", ".join(result.table["model"].unique())
        protocol = "" if self.no_paper_protocol else f"protocol {self.protocol}"
        return draw(
            drawing, title=f"{self.title}{drawing.about}: {models}",
            subtitle="; ".join(filter(None, (self.source, protocol, drawing.note))),
        )  # fmt: skip

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        """Additional tables for its report page, by caption."""
        return {}

    def finding(self, result: Result) -> str:
        """What the result shows besides the verdicts on its claims, in a sentence with at most two numbers."""
        return ""

    def details(self, result: Result) -> list[str]:
        """Further numbers, a sentence or a few about each: those of the verdicts, unless a subclass adds to them."""
        return result.claims.notes()

    def surroundings(self, model: Any) -> dict[str, Any]:
        """Plain values that the numbers also depend on, such as the machine where time is measured."""
        return {}

    def save_more(self, result: Result, folder: Path) -> None:  # noqa: B027  # most studies have only a table
        """Save in a folder what a result holds in addition to its table."""

    def run(
        self, model: Any, material: Material = None, *, batch_size: int | None = None, cells: Cells | None = None,
        workers: int | Helpers = 1,
    ) -> Result:  # fmt: skip
        """Measure every condition on all of the material; finished cells are read from `cells`.

        If hooks of your own are installed on the model, all cells are measured and none is stored, because no key can
        identify what your hooks do.

        Args:
            model: a model.
            material: what the study reads.
            batch_size: prompts or sequences per pass.
            cells: where finished cells are kept.
            workers: processes that each load the model, and measure the cells between them: on the CPU they divide its
                threads, otherwise they take the GPUs in turn. The table is the same.

        Raises:
            InputError: the material is of another kind or another tokenizer, or does not fit into free memory; with
                workers, the model cannot be loaded again, or the study measures time.
        """
        batch_size = self._passed_at_once(batch_size)
        if not hasattr(workers, "begin"):
            check_count("workers", workers)
        if workers == 1:
            return run(self, model, material, batch_size, cells, None)
        from mechicl.studies.team import helping

        with helping(self, model, workers) as helpers:
            return run(self, model, material, batch_size, cells, helpers)

    def _checked(self, tables: Iterator[pd.DataFrame], part: Part, condition: Condition) -> pd.DataFrame:
        """The next table, with sequences in order. NumericalError names the study and cell of a non-finite value."""
        return next_checked(tables, self.name, {**part.labels, **condition}, self.may_lack)

    def parts(self, material: Material) -> tuple[list[Part], dict[str, Any]]:
        """The material, split into the parts that cells are made of, and its provenance.

        Raises:
            InputError: the study reads another kind of material.
        """
        sequences, zero_shot = self.sequences_a_cell, self.zero_shot
        return parts_of(material, self.reads, name=self.name, sequences=sequences, zero_shot=zero_shot)

    def _key(self, code: str, model_facts: Mapping[str, Any], part: Part, condition: Condition) -> dict[str, Any]:
        model = {name: model_facts[name] for name in ("weight_digest", "config_digest", "processing", "dtype")}
        alike = vars(type(self)).get("not_measured", ())
        return {
            "study": self.name,
            "settings": {name: value for name, value in self.settings().items() if name not in alike},
            "condition": dict(condition),
            "model": model,
            "prompts": part.material.digest() if part.material is not None else None,
            "code": code,
            "versions": computing(),
        }


def _register(study: type[Study]) -> None:
    """Register a study in `STUDIES`; one that is redefined, as in a notebook, replaces the old one.

    Raises:
        InputError: another study has the name, or the class lacks a required text.
    """
    missing = [fact for fact in ("title", "source", "claim") if not isinstance(getattr(study, fact, None), str)]
    if missing:
        raise InputError(f"The study {study.name} lacks {' and '.join(missing)}; give its class these texts.")
    called = study.name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", study.name) or called in vars(import_module("mechicl.studies")):
        raise InputError(
            f"A study cannot be named {study.name!r}; use small letters and dashes, and no name in mechicl.studies."
        )
    if study.reads not in INPUTS:
        raise InputError(f"The study {study.name} reads {study.reads!r}; let it read one of {', '.join(INPUTS)}.")
    if taken := (RESERVED | {INPUTS[study.reads].argument}) & inspect.get_annotations(study).keys():
        raise InputError(f"The study {study.name} has a switch {', '.join(taken)}, which commands share; rename it.")
    there = STUDIES.get(study.name)
    if there is not None and (there.__module__, there.__qualname__) != (study.__module__, study.__qualname__):
        raise InputError(f"There is a study {study.name!r} already, in {there.__module__}; give yours another name.")
    STUDIES[study.name] = study
