"""Pages that mkdocs writes from the code: one per study and notebook, the API, the gallery, the citation."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import gallery  # noqa: E402
import tutorials  # noqa: E402
from examples import ELSEWHERE, EXAMPLES, command, wrapped  # noqa: E402

import mechicl  # noqa: E402
from mechicl.declared import INPUTS, Declaration, DeclaredSwitch, claimant, shipped  # noqa: E402
from mechicl.studies import STUDIES  # noqa: E402

_SIGNATURE = "{heading_level: 3, show_docstring_description: false, show_docstring_parameters: false}"
"""Of a study's function: the page says the rest already."""
_PAPERS = {
    "label_words": "Label Words are Anchors",
    "stages": "Stages of Inference",
    "extensions": "Beyond both papers",
}


def on_config(config: Any) -> Any:
    """Put a page per study into the navigation, by paper."""
    pages = {title: [f"studies/{name}.md" for name, study in STUDIES.items() if _home(study) == folder]
             for folder, title in _PAPERS.items()}  # fmt: skip
    for entry in config["nav"]:
        if "Studies" in entry:
            entry["Studies"] = [{title: names} for title, names in pages.items()]
        if "Tutorials" in entry:
            entry["Tutorials"] += [f"notebooks/{name}.md" for name in tutorials.NOTEBOOKS]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are written here."""
    for name, study in STUDIES.items():
        files.append(File.generated(config, f"studies/{name}.md", content=study_page(study)))
    figures, pictures = gallery.page(STUDIES, tutorials.cells())
    written = {
        "api.md": api_page(), "gallery.md": figures, **pictures, "cite.md": citation_page(),
        "explorer/tiny-icl.html": tutorials.explorer(), **tutorials.pages(),
    }  # fmt: skip
    for place, content in written.items():
        files.append(File.generated(config, place, content=content))
    return files


def study_page(study: Any) -> str:
    """What the paper did, how it is measured here, the command, the figure, and the call from Python."""
    module = sys.modules[study.__module__]
    heading, _, told = (inspect.getdoc(module) or "").partition("\n\n")
    call = study.name.replace("-", "_")
    return "\n\n".join(
        [
            f"# {study.title}",
            f"*{study.source}.*" if "(section" in heading or "(beyond" in heading else f"*{study.source}.* {heading}",
            f"**{claimant(study.source, study.claim)}:** {study.claim}",
            "## What was done, and how it is measured here",
            told,
            f"## The command\n\n```sh\n{wrapped(command(study.name))}\n```\n\nRuns on {INPUTS[study.reads].words}. "
            f"`mechicl run {study.name} --help` lists its options; "
            "[What a run writes](../command-line.md#what-a-run-writes) describes the files.",
            *_claims(study),
            *_shown(study),
            f"## From Python\n\n::: mechicl.studies.{call}\n    options: {_SIGNATURE}",
            f"### Switches\n\n{_switches(shipped()[study.name])}",
        ]
    )


def _claims(study: Any) -> list[str]:
    """The claims that a study decides."""
    rows = [f"| {c.sentence} | {c.quantity} | {c.null} | {c.least:g} {c.unit} |" for c in study.claims]
    head = ["| claim | quantity | compared with | smallest effect that matters |", "|---|---|---|---|"]
    rule = "[Claims and verdicts](../claims.md) says when a claim is supported or contradicted."
    return ["## What it decides\n\n" + "\n".join([*head, *rows]), rule] if rows else []


def _shown(study: Any) -> list[str]:
    if study.name in ELSEWHERE:
        return []
    found = json.loads((HERE / "pages" / "studies" / f"{study.name}.json").read_text())
    details = "\n".join(f"- {text}" for text in found["details"])
    return [f"## On the shipped model\n\n![{study.title} on tiny-icl]({study.name}.png)\n\n{found['finding']}", details]


def api_page() -> str:
    """Every name of `mechicl`, and of its namespaces; the studies have pages of their own."""
    studies = {study.name.replace("-", "_") for study in STUDIES.values()}
    parts = ["# API\n\nAfter `import mechicl as mi`, `mechicl.probes` is `mi.probes`.", "## mechicl"]
    parts += [f"::: {home}.{name}" for name, home in mechicl.HOME.items() if name not in studies]
    for room in mechicl.NAMESPACES:
        module = importlib.import_module(f"mechicl.{room}")
        parts.append(f"## mechicl.{room}\n\n{(module.__doc__ or '').splitlines()[0]}")
        parts += [f"::: mechicl.{room}.{name}" for name in module.__all__ if name not in mechicl.HOME]
    return "\n\n".join(parts)


def citation_page() -> str:
    """How to cite mechicl and the papers, from CITATION.cff."""
    told = yaml.safe_load((HERE.parent / "CITATION.cff").read_text())
    entries = [_bibtex("software", "mechicl", told)]
    entries += [_bibtex(kind, key, one) for (key, kind), one in zip(_KEYS.items(), told["references"], strict=True)]
    fenced = "\n\n".join(entries)
    return (
        f"# How to cite\n\n{told['message']}\n\n```bibtex\n{fenced}\n```\n\nTo make a number reproducible, give the "
        "command and the provenance next to each table: weight digest, versions, settings, seeds, data."
    )


_KEYS = {"wang-etal-2023-label": "inproceedings", "lad-etal-2024-remarkable": "article"}
"""Key and kind of each paper's entry."""


def _bibtex(kind: str, key: str, told: dict[str, Any]) -> str:
    authors = [  # braces keep the name of a group whole
        f"{{{one['name']}}}" if "name" in one else f"{one['family-names']}, {one['given-names']}"
        for one in told["authors"]
    ]
    year = told.get("year") or str(told.get("date-released", ""))[:4]
    facts = {
        "title": f"{{{told['title']}}}", "author": " and ".join(authors), "year": year,
        "booktitle": told.get("collection-title"), "note": told.get("notes"), "version": told.get("version"),
    }  # fmt: skip
    lines = [f"  {name} = {{{value}}}," for name, value in facts.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _home(study: Any) -> str:
    return str(study.__module__.split(".")[2])


def _switches(told: Declaration) -> str:
    """A row per switch."""
    rows = [f"| `{one.name}` | {_values(one)} | `{one.default!r}` | {one.help} |" for one in told.switches]
    head = "Keywords in Python; on the command line `--` and dashes in place of underscores.\n"
    return (
        "\n".join([head, "| switch | values | default | what it does |", "|---|---|---|---|", *rows])
        if rows
        else "None."
    )


def _values(one: DeclaredSwitch) -> str:
    return ", ".join(f"`{choice}`" for choice in one.choices) or {"text": ""}.get(one.kind, one.kind)


if unlike := {*EXAMPLES, *ELSEWHERE} ^ set(STUDIES):
    raise KeyError(f"docs/examples.py and the studies differ: {unlike}")
