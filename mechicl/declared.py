"""A study's declaration in plain values, for its call, its command, the list, the pages and the stubs.

A study's field is annotated `Annotated[type, Switch(help, ...)]`. The type defines the allowed values: a Literal lists
the choices, a tuple takes several, each once. Declarations of the shipped studies are stored in `studies/declared.json`
(`make declare`), so that the command line need not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from mechicl.errors import InputError, check_seed

DECLARED = Path(__file__).parent / "studies" / "declared.json"
Reads = Literal["prompts", "text", "pairs", "benchmarks", "weights"]
RESERVED = frozenset(
    ("model", "tasks", "batch_size", "task", "data", "samples", "seeds", "shots", "mislabelled", "demonstrations",
     "too_long", "order", "anchor", "label_words", "columns", "chat", "score",
     "text", "tokens", "length", "packing", "column", "split",
     "processing",
     "out", "backend", "dtype", "device", "n_devices", "n_ctx", "as_json", "workers", "ray", "shard", "checkpoints",
     "include", "limit", "prompt_seeds")
)  # fmt: skip
"""Arguments and options that studies share: no switch can have such a name."""
Kind = Literal["choice", "int", "float", "bool", "text"]
"""The kind of one value of a switch; "text" is anything that the study itself parses."""
_WORDS = {"int": "a whole number", "float": "a number", "bool": "True or False"}


@dataclass(frozen=True)
class Input:
    """A study's input in addition to a model."""

    words: str
    argument: str = ""
    """Its name in Python."""
    type: str = ""
    maker: str = ""
    """The function that makes one."""

    def __str__(self) -> str:
        return f"{self.words} ({self.maker})" if self.maker else self.words


INPUTS: dict[Reads, Input] = {
    "prompts": Input(
        "prompts of one or more tasks", "prompts", "PromptSet | Sequence[PromptSet] | Sequence[Prompt]", "task.prompts"
    ),
    "text": Input("running text", "corpus", "TokenCorpus", "mi.load_corpus"),
    "pairs": Input("pairs of sentences that share a word", "pairs", "WordPairs", "mi.corpora.load_word_pairs"),
    "benchmarks": Input("benchmarks of lm-evaluation-harness", "tasks", "Benchmarks", "mi.tasks.load_benchmarks"),
    "weights": Input("the model's weights alone"),
}


@dataclass(frozen=True)
class Switch:
    """The description of a study's field, and the least value that makes sense."""

    help: str
    min: float | None = None
    above: float | None = None
    """The value is larger than this."""


@dataclass(frozen=True)
class DeclaredSwitch:
    """A switch as needed for display and parsing."""

    name: str
    kind: Kind
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    several: bool = False
    """Whether it takes several values, as a tuple."""
    optional: bool = False
    """Whether it may be None."""
    min: float | None = None
    above: float | None = None

    def wanted(self) -> str:
        """What a value should be, in words."""
        if self.kind == "choice":
            *most, last = self.choices
            one = f"{', '.join(most)} or {last}" if most else last
            return f"choose from {one}, each once" if self.several else f"choose {one}"
        limits = "" if self.min is None else f" from {self.min:g} on"
        limits = limits if self.above is None else f" above {self.above:g}"
        if self.several:
            return f"give {'whole numbers' if self.kind == 'int' else 'numbers'}{limits}, each once"
        return f"give {_WORDS[self.kind]}{limits}"

    def accepts(self, value: Any) -> bool:
        """Whether a value is one that the switch can have."""
        if self.kind == "text":
            return True
        if value is None:
            return self.optional
        if not self.several:
            return self._takes(value)
        each = isinstance(value, tuple) and len(value) > 0 and all(map(self._takes, value))
        return each and len(set(value)) == len(value)

    def _takes(self, value: Any) -> bool:
        if self.kind == "choice":
            return isinstance(value, str) and value in self.choices
        if self.kind == "bool":
            return isinstance(value, bool)
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "int" else (int, float)):
            return False
        enough = self.min is None or value >= self.min
        return (isinstance(value, int) or isfinite(value)) and enough and (self.above is None or value > self.above)


@dataclass(frozen=True)
class Declaration:
    """A study as needed by the command line, the list and the pages."""

    name: str
    title: str
    source: str
    claim: str
    shows: str
    reads: Reads
    batch_size: int | None
    """Initial number of prompts or sequences per pass; None if it makes no batches."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Other defaults of shared options; None: its command has no such option."""
    switches: tuple[DeclaredSwitch, ...] = ()
    claims: tuple[Mapping[str, Any], ...] = ()
    """The fields of each `Claim`."""


def declaration(study: Any) -> Declaration:
    """The declaration of a study class; without a protocol "paper", protocol is not a switch."""
    own = [one for one in switches(study) if one.name != "protocol" or not study.no_paper_protocol]
    own.sort(key=lambda switch: switch.name == "protocol")  # as a field of every study it comes first there
    return Declaration(
        study.name, study.title, study.source, study.claim, study.shows, study.reads, study.batch_size,
        study.shared_options, tuple(own), tuple(map(asdict, study.claims)),
    )  # fmt: skip


def switches(study: Any) -> list[DeclaredSwitch]:
    """The switches of a class of studies, in the order of its fields."""
    hints = get_type_hints(study, include_extras=True)
    return [_switch(one, hints[one.name]) for one in fields(study)]


def check_values(study: Any) -> None:
    """Reject values that a switch cannot have; lists become tuples.

    Raises:
        InputError: names the switch, its value and the expected one.
    """
    for switch in switches(type(study)):
        value = getattr(study, switch.name)
        if switch.several and isinstance(value, Collection) and not isinstance(value, str | tuple):
            value = tuple(one.item() if getattr(one, "shape", None) == () else one for one in value)
            object.__setattr__(study, switch.name, value)
        if switch.name.endswith("seed") and isinstance(value, int):
            check_seed(value)
        if not switch.accepts(value):
            raise InputError(f"{switch.name} is {value!r}; {switch.wanted()}.")


def claimant(source: str, claim: str) -> str:
    """What a study answers: a paper's claim, or one beyond both papers, or a question."""
    if source.startswith(("Label Words are Anchors", "Stages of Inference")):
        return "The paper"
    return "The question" if claim.endswith("?") else "The claim"


@cache
def shipped() -> dict[str, Declaration]:
    """Declarations of the shipped studies by name, in the order of the papers."""
    return {one["name"]: _read(one) for one in json.loads(DECLARED.read_text(encoding="utf-8"))}


def written(declarations: Collection[Declaration]) -> str:
    """The text of `declared.json`."""
    return json.dumps([asdict(one) for one in declarations], indent=1, ensure_ascii=False) + "\n"


def _read(facts: Mapping[str, Any]) -> Declaration:
    read = [DeclaredSwitch(**{name: as_tuples(value) for name, value in one.items()}) for one in facts["switches"]]
    return Declaration(**{**facts, "switches": tuple(read), "claims": tuple(facts["claims"])})


def as_tuples(value: Any) -> Any:
    """A value read from JSON, with lists turned back into tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def _switch(one: Field[Any], hint: Any) -> DeclaredSwitch:
    said = Switch("")
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        said = next((each for each in more if isinstance(each, Switch)), said)
    if one.default is MISSING:
        raise InputError(f"The switch {one.name} of a study needs a default that is a plain value.")
    kind, choices, several, optional = _kind(hint)
    return DeclaredSwitch(one.name, kind, one.default, said.help, choices, several, optional, said.min, said.above)


def _kind(hint: Any) -> tuple[Kind, tuple[str, ...], bool, bool]:
    """Kind of one value, choices, whether several are allowed, and whether None is."""
    inside = [one for one in get_args(hint) if one is not NoneType]
    optional = len(inside) < len(get_args(hint))
    if optional and len(inside) == 1:
        return (*_kind(inside[0])[:3], True)
    if get_origin(hint) is Literal and all(isinstance(one, str) for one in get_args(hint)):
        return "choice", get_args(hint), False, False
    if get_origin(hint) is tuple and len(inside) == 2 and inside[1] is Ellipsis:
        kind, choices, *_ = _kind(inside[0])
        return kind, choices, True, False
    plain: dict[Any, Kind] = {bool: "bool", int: "int", float: "float"}
    return plain.get(hint, "text"), (), False, optional
