"""The notebooks run from a clean kernel, and what is stored of them shows what running them shows."""

from __future__ import annotations

import ast
import importlib
import operator
import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import mechicl
from mechicl.studies import STUDIES
from tests.notebooks import ON_TINY_ICL, PLOTLY, WIDGET, chooses, digest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.ipynb"))]
LIGHT = ("compose_probes_and_patches", "your_own_task_and_model")
HEAVY = [pytest.param(*one.values, id=one.id, marks=pytest.mark.thorough) for one in NOTEBOOKS if one.id not in LIGHT]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> list[str]:
    """What a reader sees of a cell: tables and texts, figures, explorers; not progress bars."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            found += ["text"] if output.name == "stdout" else []
        elif output.output_type == "display_data" and (WIDGET in data or data.get("text/plain") == ""):
            continue
        else:
            found.append(next((kind for kind in (PLOTLY, "text/html") if kind in data), "other"))
    return [kind for i, kind in enumerate(found) if kind != "text" or found[i - 1 : i] != ["text"]]


def test_every_notebook_has_a_choice_for_the_tests() -> None:
    assert set(ON_TINY_ICL) == {path.stem for path in FOLDER.glob("*.ipynb")}


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_stored_notebooks_were_executed_as_they_stand(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert sum(map(chooses, notebook.cells)) == 1
    assert notebook.metadata["mechicl"]["executed"] == digest(notebook), "edited since; run: make notebooks"
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    for output in outputs:
        data = output.get("data", {})
        assert WIDGET not in data
        assert PLOTLY not in data or "image/png" in data
        assert "<script" not in data.get("text/html", "")
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_stored_verdicts_are_on_claims_as_they_are_worded_now(path: Path) -> None:
    worded = tuple(claim.sentence for study in STUDIES.values() for claim in study.claims)
    outputs = [output for cell in code_cells(nbformat.read(path, as_version=4)) for output in cell.outputs]
    for output in outputs:
        text = unescape(output.get("data", {}).get("text/html", "") or output.get("text", ""))
        for verdict in re.finditer(r"(Supported|Contradicted|Undecided)( (on|in) [^:<]*)?: (?P<claim>[^<]{,60})", text):
            known = any(sentence.startswith(verdict["claim"][: len(sentence)]) for sentence in worded)
            assert known, f"run: make notebooks ({verdict['claim']})"


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_what_notebooks_name_of_mechicl_exists(path: Path) -> None:
    """Also of those that are executed by `make test-thorough` alone."""
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    for node in ast.walk(ast.parse(re.sub(r"^( *)%.*$", r"\1pass", code, flags=re.MULTILINE))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mechicl"):
            module = importlib.import_module(node.module or "")
            assert [one.name for one in node.names if not hasattr(module, one.name)] == [], node.module
        named = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"mi(\.[a-zA-Z_]\w*)+", named):
            assert operator.attrgetter(named.removeprefix("mi."))(mechicl) is not None


@pytest.mark.parametrize("path", [one for one in NOTEBOOKS if one.id in LIGHT] + HEAVY)
def test_notebooks_run_on_tiny_icl_and_show_the_same_kinds_of_output(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    next(cell for cell in fresh.cells if chooses(cell)).source = ON_TINY_ICL[path.stem]
    nbclient.NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell, before in zip(code_cells(fresh), code_cells(stored), strict=True):
        assert kinds(cell) == kinds(before), cell.source
