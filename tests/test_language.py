"""What a person reads is in the field's words: phrases that were retired do not come back."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RETIRED = (
    "intact model", "probable tokens that stay", "with commas", "where they come from", "foretell",
    "numbers of the figure", "make them again", "neurons as long", "number that is none", "goes on from what is there",
    "goes on where it was", "further items", "has not seen", "are free beside", "where it comes from",
    "stay as they are", "stays as it is", "a probe tells", "tells whether", "tells the prediction", "most probable tokens as",
    "put tokens together", "put the tokens of a word together", "above it a neuron", "can only make it surer", "obstacle",
    "to go on from here", "what was tried", "foretold", "held at a value",
    "the one cell to change", "lesion the", "lesion a layer", "put a word's tokens together", "beside the sink",
    "took the place", "explains itself",
)  # fmt: skip


def _texts() -> Iterator[tuple[str, str]]:
    """Pages whole, and of code every string, docstrings among them."""
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "benchmarks" / "README.md",
        *ROOT.glob("docs/measured/*.md"),
        *ROOT.glob("docs/pages/studies/*.json"),
        *ROOT.glob("docs/pages/*.md"),
        *ROOT.glob("docs/*.py"),
        *ROOT.glob(".github/**/*.y*ml"),
        ROOT / "CITATION.cff",
        ROOT / "Makefile",
        *ROOT.glob("mechicl/**/*.md"),
    ):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("mechicl/**/*.js"), ROOT / "mechicl" / "studies" / "declared.json"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in ROOT.glob("mechicl/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for path in ROOT.glob("notebooks/*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            yield str(path.relative_to(ROOT)), "".join(cell["source"])


def test_retired_phrases_stay_away() -> None:
    phrases = (r"\s+".join(map(re.escape, phrase.split())) for phrase in RETIRED)
    retired = re.compile("|".join(phrases), re.IGNORECASE)
    assert [f"{place}: {found[0]}" for place, text in _texts() if (found := retired.search(text))] == []
