"""A cell's key changes when what is measured changes, and not with what only shows."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytest
import torch

from mechicl.code_digest import PACKAGE, SHOWING, Reach, measured_by, place
from mechicl.errors import InputError
from mechicl.results import Cells
from mechicl.studies import STUDIES
from mechicl.studies.label_words.isolation import Isolation
from tests import tiny
from tests.random_prompts import random_prompts

Edit = Callable[[ast.AST], None]


def keys(package: Path) -> dict[str, str]:
    """What every study is measured by, in a copy of mechicl's sources, which is imported for the while."""
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "mechicl"}
    sys.path.insert(0, str(package.parent))
    try:
        studies = __import__("mechicl.studies", fromlist=["STUDIES"])
        assert Path(studies.__file__).parents[1] == package
        digested = sys.modules["mechicl.code_digest"]
        return {name: digested.measured_by(study) for name, study in studies.STUDIES.items()}
    finally:
        sys.path.remove(str(package.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == "mechicl"]:
            del sys.modules[name]
        sys.modules.update(ours)


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Studies that are made here leave the registry again."""
    others = dict(STUDIES)
    yield
    STUDIES.clear()
    STUDIES.update(others)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of mechicl's sources without comments; where lines end may change how code is compiled."""
    package = tmp_path_factory.mktemp("plain") / "mechicl"
    shutil.copytree(PACKAGE, package, ignore=lambda _, names: {name for name in names if name == "__pycache__"})
    for path in package.rglob("*.py"):
        path.write_text(ast.unparse(ast.parse(path.read_text())))
    return package


@pytest.fixture(scope="module")
def before(plain: Path) -> dict[str, str]:
    return keys(plain)


@pytest.fixture
def edited(plain: Path, tmp_path: Path) -> Callable[..., Path]:
    """The copy, with some of its files edited: pairs of files and what is done to them."""

    def write(*edits: tuple[str, Edit]) -> Path:
        package = tmp_path / "mechicl"
        shutil.copytree(plain, package)
        chosen: dict[Path, list[Edit]] = {}
        for places, edit in edits:
            found = list(package.glob(places))
            assert found
            for path in found:
                chosen.setdefault(path, []).append(edit)
        for path, all_of_it in chosen.items():
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                for edit in all_of_it:
                    edit(node)
            path.write_text(ast.unparse(tree))
        return package

    return write


def other_docstring(node: ast.AST) -> None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        node.value.value = "Other words."


def other_help(node: ast.AST) -> None:
    if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
        node.annotation = ast.parse(f"Annotated[{ast.unparse(node.annotation)}, 'help']", mode="eval").body


def other_description(node: ast.AST) -> None:
    claims = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "ClassVar[str]"
    if claims and ast.unparse(node.target) in ("title", "claim"):
        node.value = ast.Constant("other")


def also(*names: str) -> Edit:
    """Functions of these names, or all, do something more."""

    def edit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef) and (node.name in names or not names):
            node.body.insert(0, ast.parse("more = 1").body[0])

    return edit


def test_words_and_what_draws_are_in_no_key(edited: Any, before: dict[str, str]) -> None:
    """Docstrings, titles, claims and help; figures and sentences of studies, cli, explorer, figures, report."""
    words = [("**/*.py", other_docstring), ("**/*.py", other_description), ("studies/*/*.py", other_help)]
    draws = [
        ("studies/*/*.py", also("figure", "finding", "summary", "_bars", "_curves")),
        *((f"{room}/*.py", also()) for room in ("cli", "explorer", "figures", "report")),
    ]
    assert keys(edited(*words, *draws)) == before


def test_comments_are_in_no_key(tmp_path: Path) -> None:
    package = tmp_path / "mechicl"
    shutil.copytree(PACKAGE, package)
    for path in package.rglob("*.py"):
        path.write_text(
            re.sub(r"^( *)(def|class|return|for) ", r"\n\1# a comment\n\1\2 ", path.read_text(), flags=re.M)
        )
    assert keys(package) == {name: measured_by(study) for name, study in STUDIES.items()}


_OF_LESIONS = {
    "benchmarks", "causal-stages", "entropy-neurons", "layer-lesions", "many-lesions", "right-then-wrong", "stages-atlas",
    "token-lesions",
}  # fmt: skip


@pytest.mark.parametrize(
    ("edits", "changed"),
    [
        ([("studies/label_words/isolation.py", also("patches")), ("studies/stages/ensembles.py", also("greedy")),
          ("studies/stages/lesions.py", also("scored_positions"))], {"isolation", "voting", *_OF_LESIONS}),
        ([("studies/label_words/isolation.py", also("authors_draws"))], {"isolation"}),
        ([("studies/study.py", also("_checked"))], set(STUDIES)),
        ([("studies/checking.py", also("next_checked"))], set(STUDIES)),
        ([("hooks/running.py", also("run"))], set(STUDIES)),
    ],
)  # fmt: skip
def test_what_measures_is_in_the_key_of_those_that_it_measures_for(
    edits: list[tuple[str, Edit]], changed: set[str], edited: Any, before: dict[str, str]
) -> None:
    after = keys(edited(*edits))
    assert {name for name, key in after.items() if key != before[name]} == changed


def test_a_constant_that_measuring_reads_is_in_the_key(edited: Any, before: dict[str, str]) -> None:
    def other_number(node: ast.AST) -> None:
        if isinstance(node, ast.Assign) and ast.unparse(node) == "_CLAIMED = 5":
            node.value = ast.Constant(4)

    after = keys(edited(("studies/label_words/isolation.py", other_number)))
    assert {name for name, key in after.items() if key != before[name]} == {"isolation"}


def test_measuring_leads_to_nothing_that_draws() -> None:
    reached = [Reach(study) for study in STUDIES.values()]
    followed = {name.split()[0] for reach in reached for name in reach.seen.values()}
    assert "mechicl.studies.stages.lesions.scored_positions" in followed, "the control"
    assert {place(name.partition("<")[0].rpartition(".")[0]) for name in followed if "." in name} == {"followed"}
    members = {text.split()[0] for reach in reached for text in reach.texts}
    assert f"{Isolation.__module__}.Isolation.patches" in members, "the control"
    assert [name for name in members if name.rpartition(".")[2] in SHOWING] == []


def test_keys_are_the_same_in_every_process() -> None:
    """Python orders the names in a set anew in every process."""
    code = (
        "import json; from mechicl.studies import STUDIES; from mechicl.code_digest import measured_by;"
        "print(json.dumps({name: measured_by(study) for name, study in STUDIES.items()}))"
    )
    ours = {name: measured_by(study) for name, study in STUDIES.items()}
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(told.stdout) == ours


# The user's own studies.

HELPERS = """
def double(table):
    return table
"""
STUDY = """
from dataclasses import dataclass
from typing import ClassVar

from mechicl.studies.label_words.isolation import Isolation
import helpers_of_mine

FACTOR = 2
COLOUR = "red"


def scaled(table):
    return helpers_of_mine.double(table)


@dataclass(frozen=True)
class Mine(Isolation):
    '''What it is.'''

    name: ClassVar[str] = "mine"
    title: ClassVar[str] = "Mine"

    def measure(self, model, prompts, condition, *, batch_size):
        '''What it measures.'''
        rows = super().measure(model, prompts, condition, batch_size=batch_size)
        return scaled(rows.assign(factor=FACTOR))

    def finding(self, result):
        return "found " + COLOUR
"""
SHOWS = [
    ("'''What it is.'''", "'''Other words.'''"),
    ("'''What it measures.'''", "# a comment\n"),
    ("    def measure", "\n\n    # a comment\n    def measure"),
    ('COLOUR = "red"', 'COLOUR = "blue"'),
    ('"found " +', '"seen " +'),
    ('"Mine"', '"Yours"'),
]
MEASURES = [
    ("FACTOR = 2", "FACTOR = 3"),
    ("factor=FACTOR", "factor=FACTOR + 1"),
    ("return helpers_of_mine.double(table)", "return helpers_of_mine.double(table[::-1])"),
    ("    return table", "    return table * 2"),
    ("    def finding", "    def patches(self, model, prompts, condition):\n        return []\n\n    def finding"),
]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """The study in files of the user's own, or as in a notebook, with one edit."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(old: str, new: str) -> Any:
        for name, source in {"helpers_of_mine": HELPERS, "study_of_mine": STUDY}.items():
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(source.replace(old, new))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        __import__("study_of_mine")
        return sys.modules.pop("study_of_mine").Mine

    return write


@pytest.mark.parametrize(("old", "new"), SHOWS)
def test_a_study_of_the_users_keeps_its_key_when_it_shows_otherwise(written: Any, old: str, new: str) -> None:
    assert old in STUDY
    plain = measured_by(written("", ""))
    assert measured_by(written(old, new)) == plain


@pytest.mark.parametrize(("old", "new"), MEASURES)
def test_a_study_of_the_users_has_another_key_when_it_measures_otherwise(written: Any, old: str, new: str) -> None:
    assert old in STUDY + HELPERS
    plain = measured_by(written("", ""))
    assert measured_by(written(old, new)) != plain
    assert measured_by(written("", "")) == plain


def test_in_a_notebook_what_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no file; a cell of the notebook that is run again changes a value."""
    source = STUDY.replace("import helpers_of_mine", "").replace("helpers_of_mine.double(table)", "table")
    notebook: dict[str, Any] = {"__name__": "__main__"}
    monkeypatch.setitem(sys.modules, "__main__", type(sys)("__main__"))
    exec(source, notebook)
    plain = measured_by(notebook["Mine"])
    notebook["COLOUR"] = "blue"
    assert measured_by(notebook["Mine"]) == plain
    notebook["FACTOR"] = 5
    assert measured_by(notebook["Mine"]) != plain


def test_closures_count() -> None:
    def made(factor: int) -> Any:
        class Made(Isolation):
            def measure(self, *args: Any, **more: Any) -> Any:
                return super().measure(*args, **more) * factor

        return Made

    assert measured_by(made(2)) == measured_by(made(2))
    assert measured_by(made(2)) != measured_by(made(3))


class Counter:
    """An object of which nobody can tell whether it changed."""


COUNTER = Counter()


class Untellable(Isolation):
    def measure(self, *args: Any, **more: Any) -> Any:
        str(COUNTER)
        return super().measure(*args, **more)


def test_where_nobody_can_tell_no_cells_are_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="COUNTER is a Counter"):
        measured_by(Untellable)
    with pytest.warns(UserWarning, match=r"keeps no cells.*COUNTER is a Counter.*make it a switch"):
        result = Untellable(n_layers=(1,)).run(tiny.model("gpt2"), random_prompts(2), cells=Cells(tmp_path))
    assert len(result.table)
    assert not (tmp_path / "cells").exists()


def guarded(inside: str, after: str) -> Any:
    """A function whose instructions are the same wherever its `try` ends."""
    source = f"def f(x):\n try:\n  x = int(x)\n  {inside}\n except ValueError:\n  x = 0\n {after}\n return x"
    names: dict[str, Any] = {"__name__": __name__}
    exec(source, names)
    return names["f"]


class Colour(Enum):
    RED = 1

    def double(self) -> int:
        return self.value * 2


class Pair(NamedTuple):
    first: int
    second: int = 2


class Sized(Protocol):
    def size(self) -> int:
        return 1


class Other(Sized):
    def size(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}),
        ([1, 2], [2, 1]),
        ((1,), [1]),
        (lambda x: x, lambda x: -x),
        (lambda a, b: a - b, lambda b, a: b - a),
        (lambda x: sorted(x, key=1), lambda x: sorted(x, by=1)),
        (guarded("x = abs(x)", ""), guarded("", "x = abs(x)")),
        ([lambda x: x, lambda x: -x], [lambda x: -x, lambda x: x]),
        (lambda x, by=1: x * by, lambda x, by=2: x * by),
        (lambda x: "a" if x else "b", lambda x: "b" if x else "a"),
        (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
        (lambda x: [x and 1 for y in x], lambda x: [x and 2 for y in x]),
        (np.arange(3), np.arange(3.0)),
        (torch.arange(3), torch.arange(3).flip(0)),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)),
        (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
        (partial(pow, 2), partial(pow, 3)),
        ({"a": 1}.get, {"a": 2}.get),
        (str.lower, str.upper),
        (cache(lambda x: x), cache(lambda x: -x)),
        (torch.no_grad()(lambda x: x), torch.no_grad()(lambda x: -x)),
        (Colour.RED, Colour),
        (Pair(1), Pair(1, 3)),
        (Sized, Other),
        (list[int], int | None),
    ],
)
def test_what_a_study_reads_counts(one: Any, other: Any) -> None:
    def reading(value: Any) -> Any:
        class Made(Isolation):
            def measure(self, *args: Any, **more: Any) -> Any:
                return value

        return Made

    assert measured_by(reading(one)) == measured_by(reading(one))
    assert measured_by(reading(one)) != measured_by(reading(other))
