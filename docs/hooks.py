"""Pages that mkdocs writes from the code: one per study, and the API."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import backends  # noqa: E402
import drift  # noqa: E402
import models  # noqa: E402
from examples import ELSEWHERE, EXAMPLES, command  # noqa: E402

import mechicl  # noqa: E402
from mechicl.declared import INPUTS, Declaration, DeclaredSwitch, shipped  # noqa: E402
from mechicl.studies import STUDIES  # noqa: E402

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
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of studies and of the API."""
    for name, study in STUDIES.items():
        files.append(File.generated(config, f"studies/{name}.md", content=study_page(study)))
    files.append(File.generated(config, "api.md", content=api_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put measured numbers where the pages of defects and of half precision name them."""
    if page.file.src_uri == "precision.md":
        return markdown.format(table=drift.table(), models=", ".join(drift.measured()), prompt=f"{1 / 32:.3f} for one")
    if page.file.src_uri == "models.md":
        return markdown.format(table=models.table(), studies=backends.table())
    if page.file.src_uri != "defects.md":
        return markdown
    return markdown.format(**json.loads((HERE / "pages" / "defects.json").read_text()))


def study_page(study: Any) -> str:
    """What the paper did, how it is measured here, the command, the figure, and the call from Python."""
    module = sys.modules[study.__module__]
    heading, _, told = (inspect.getdoc(module) or "").partition("\n\n")
    call = study.name.replace("-", "_")
    return "\n\n".join(
        [
            f"# {study.title}",
            f"*{study.source}.* {heading}" if heading.count("\n") == 0 else f"*{study.source}.*",
            f"**{'The question' if _home(study) == 'extensions' else 'The paper says'}:** {study.claim}",
            "## What was done, and how it is measured here",
            told,
            f"## The command\n\n```sh\n{_wrapped(command(study.name))}\n```\n\nRuns on {INPUTS[study.reads].words}. "
            f"`mechicl run {study.name} --help` lists its options; [Quick start](../index.md) says what it leaves.",
            *_claims(study),
            *_shown(study),
            f"## From Python\n\n::: mechicl.studies.{call}\n    options: {{heading_level: 3}}",
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
    found = json.loads((HERE / "pages" / "studies" / f"{study.name}.json").read_text())["finding"]
    return [f"## On the shipped model\n\n![{study.title} on tiny-icl]({study.name}.png)\n\n{found}"]


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


def _home(study: Any) -> str:
    return str(study.__module__.split(".")[2])


def _wrapped(line: str) -> str:
    """A long command on several lines, that a shell reads as one."""
    return line if len(line) <= 80 else line.replace(" --", " \\\n    --")


def _switches(told: Declaration) -> str:
    """In Python and, with dashes, on the command line."""
    rows = [f"| `{one.name}` | {_values(one)} | `{one.default!r}` | {one.help} |" for one in told.switches]
    return "\n".join(["| switch | values | default | |", "|---|---|---|---|", *rows])


def _values(one: DeclaredSwitch) -> str:
    return ", ".join(f"`{choice}`" for choice in one.choices) or {"text": ""}.get(one.kind, one.kind)


if unlike := {*EXAMPLES, *ELSEWHERE} ^ set(STUDIES):
    raise KeyError(f"docs/examples.py and the studies differ: {unlike}")
