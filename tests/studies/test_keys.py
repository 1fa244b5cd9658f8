"""A cell's key changes when what is measured changes, and not with what only shows."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mechicl.code_digest import PACKAGE, SHOWING, Reach, digest, measures, measuring_code
from mechicl.errors import InputError
from mechicl.results import Cells
from mechicl.running_code import measured_by
from mechicl.studies import STUDIES
from mechicl.studies.label_words.isolation import Isolation
from tests import tiny
from tests.random_prompts import random_prompts

Edit = Callable[[ast.AST], None]


def keys(package: Path) -> dict[str, str]:
    """What is measured by in every study, in a copy of mechicl's sources."""
    found, whole = {}, measuring_code(package)
    for name, study in STUDIES.items():
        reach = Reach(package)
        for kind in study.__mro__:
            if kind.__module__.startswith("mechicl"):
                reach.study(kind.__module__, kind.__qualname__)
        found[name] = digest([whole, *reach.texts])
    return found


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Studies that are made here leave the registry again."""
    others = dict(STUDIES)
    yield
    STUDIES.clear()
    STUDIES.update(others)


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return keys(PACKAGE)


def edited(folder: Path, places: str, edit: Edit) -> Path:
    """A copy of mechicl's sources, some of them edited and formatted anew, without any comment."""
    package = folder / "mechicl"
    shutil.copytree(PACKAGE, package, ignore=lambda _, names: {name for name in names if name == "__pycache__"})
    chosen = list(package.glob(places))
    assert chosen
    for path in chosen:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            edit(node)
        path.write_text(ast.unparse(tree))
    return package


def other_docstring(node: ast.AST) -> None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        node.value.value = "Other words."


def other_message(node: ast.AST) -> None:
    if isinstance(node, ast.Raise):
        for one in ast.walk(node):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                one.value += " In other words."


def other_help(node: ast.AST) -> None:
    if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation and "ClassVar" not in ast.unparse(node.annotation):
        node.annotation = ast.parse(f"Annotated[{ast.unparse(node.annotation)}, 'help']", mode="eval").body


def other_description(node: ast.AST) -> None:
    claims = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "ClassVar[str]"
    if claims and ast.unparse(node.target) in ("title", "claim", "source"):
        node.value = ast.Constant("other")


def also(*names: str) -> Edit:
    """Functions of these names, or all, do something more."""

    def edit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef) and (node.name in names or not names):
            node.body.append(ast.parse("more = 1").body[0])

    return edit


def test_words_are_in_no_key(tmp_path: Path, before: dict[str, str]) -> None:
    """Comments, docstrings, messages, help, titles and claims."""

    def other_words(node: ast.AST) -> None:
        for edit in (other_docstring, other_message, other_help, other_description):
            edit(node)

    assert keys(edited(tmp_path, "**/*.py", other_words)) == before


@pytest.mark.parametrize(
    ("places", "edit"),
    [
        ("studies/*/*.py", also("figure", "finding", "summary", "_bars", "_curves")),
        ("[cefr][eilx][gip]*/*.py", also()),  # cli, explorer, figures, report
    ],
)
def test_what_draws_is_in_no_key(places: str, edit: Edit, tmp_path: Path, before: dict[str, str]) -> None:
    assert keys(edited(tmp_path, places, edit)) == before


_OF_LESIONS = {"benchmarks", "entropy-neurons", "layer-lesions", "many-lesions", "stages-atlas", "token-lesions"}


@pytest.mark.parametrize(
    ("places", "edit", "changed"),
    [
        ("studies/label_words/isolation.py", also("measure"), {"isolation"}),
        ("studies/label_words/isolation.py", also("authors_draws"), {"isolation"}),
        ("studies/stages/lesions.py", also("scored_positions"), _OF_LESIONS),
        ("studies/stages/ensembles.py", also("greedy"), {"voting"}),
        ("studies/study.py", also("_checked"), set(STUDIES)),
        ("hooks/running.py", also("run"), set(STUDIES)),
    ],
)
def test_what_measures_is_in_the_key_of_those_that_it_measures_for(
    places: str, edit: Edit, changed: set[str], tmp_path: Path, before: dict[str, str]
) -> None:
    after = keys(edited(tmp_path, places, edit))
    assert {name for name, key in after.items() if key != before[name]} == changed


def test_a_constant_that_measuring_reads_is_in_the_key(tmp_path: Path, before: dict[str, str]) -> None:
    def other_seed(node: ast.AST) -> None:
        if isinstance(node, ast.Assign) and ast.unparse(node) == "_AUTHORS_SEED = 42":
            node.value = ast.Constant(43)

    after = keys(edited(tmp_path, "studies/label_words/isolation.py", other_seed))
    assert {name for name, key in after.items() if key != before[name]} == {"isolation"}


def test_measuring_leads_to_nothing_that_draws() -> None:
    reach = Reach()
    for module in filter(measures, reach.sources):
        reach.whole(module)
    for study in STUDIES.values():
        for kind in study.__mro__:
            if kind.__module__.startswith("mechicl"):
                reach.study(kind.__module__, kind.__qualname__)
    assert "mechicl.display" in reach.modules, "the control: tokens are written as text"
    drawing = [name for name in reach.modules if name.split(".")[1] in ("figures", "cli", "report", "explorer")]
    assert drawing == []
    shown = [text.split()[1] for text in reach.texts if text.split()[1].split(".")[-1] in SHOWING]
    assert shown == []


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
    ("    def finding", "    def patch(self, model, prompts, condition):\n        return None\n\n    def finding"),
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
