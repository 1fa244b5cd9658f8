"""What a person reads is in the field's words: phrases that were retired do not come back."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
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
    "took the place", "explains itself", "are free on", "kind of lesion", "no lesion", "held −",
    "decide nothing", "half of a character", "as many random", "end together", "behind a plateau", "vouched for",
    "begins anew", "holds 0", "held at 6", "beside the", "beside ours", "beside one", "beside that", "first environment",
)  # fmt: skip


def _texts() -> Iterator[tuple[str, str]]:
    """Pages whole, and of code every string, docstrings among them, and every comment."""
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "pyproject.toml",
        *ROOT.glob("constraints*.txt"),
        *ROOT.glob("benchmarks/**/*.md"),
        *ROOT.glob("benchmarks/**/*.py"),
        *ROOT.glob("docs/measured/*.md"),
        *ROOT.glob("docs/pages/studies/*.json"),
        *ROOT.glob("docs/pages/*.md"),
        *ROOT.glob("docs/*.py"),
        *ROOT.glob(".github/**/*.y*ml"),
        ROOT / "CITATION.cff",
        ROOT / "Makefile",
        ROOT / ".ci" / "run",
        ROOT / "docs" / "mkdocs.yml",
        *ROOT.glob("mechicl/**/*.md"),
    ):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("mechicl/**/*.js"), ROOT / "mechicl" / "studies" / "declared.json"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in ROOT.glob("mechicl/**/*.py"):
        text, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{place}:{node.lineno}", node.value
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield f"{place}:{token.start[0]}", token.string
    for path in ROOT.glob("notebooks/*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            yield str(path.relative_to(ROOT)), "".join(cell["source"])


def test_retired_phrases_stay_away() -> None:
    phrases = (r"\s+".join(map(re.escape, phrase.split())) for phrase in RETIRED)
    retired = re.compile("|".join(phrases), re.IGNORECASE)
    assert [f"{place}: {found[0]}" for place, text in _texts() if (found := retired.search(text))] == []
