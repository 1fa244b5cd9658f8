"""The page: all verdicts, the inputs, and for each result verdicts, figure, finding, numbers and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io

from mechicl.claims import Verdicts
from mechicl.declared import claimant
from mechicl.errors import InputError
from mechicl.figures import DARK, INK, LIGHT, PAGE_WIDTHS, TEXT_ON_DARK, for_page
from mechicl.files.writing import make_folder, write_atomically
from mechicl.report.drawing_script import drawing_script, packed
from mechicl.report.provenance import facts, headings, shared_facts
from mechicl.report.tables import column_rules, table_html, verdicts_html
from mechicl.results import Result
from mechicl.studies.label_words import published as label_words
from mechicl.studies.stages import published as stages
from mechicl.versions import versions

# Nothing can be fetched, whatever a name or a text contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
_LIGHT_INK = "#e8e8ea"
_FEW = 6
"""Largest number of sentences of further numbers that are open at first."""


def write_report(results: Sequence[Result], folder: str | Path, *, title: str | None = None) -> Path:
    """Write `report.html` into the folder: one page that needs no network.

    All texts of models, tasks and data are escaped, plotly's script is included once, and each result gives the command
    that made it.

    Raises:
        InputError: there are no results.
    """
    if not results:
        raise InputError("There are no results to report; run a study first.")
    path = make_folder(folder) / "report.html"
    write_atomically(path, _page(results, title or _title(results)).encode("utf-8", "replace"))
    return path


def _title(results: Sequence[Result]) -> str:
    models = ", ".join(dict.fromkeys(str(name) for result in results for name in result.table["model"].unique()))
    return f"{results[0].study.title}: {models}" if len(results) == 1 else f"{len(results)} studies of {models}"


def _page(results: Sequence[Result], title: str) -> str:
    asked = [facts(result) for result in results]
    common, titles = shared_facts(asked), headings(results)
    figures = [result.figure() for result in results]
    sections = [
        _section(result, figure, heading, {name: value for name, value in own.items() if name not in common}, number)
        for number, (result, figure, heading, own) in enumerate(zip(results, figures, titles, asked, strict=True), 1)
    ]
    style = {
        "light": LIGHT, "dark": DARK, "ink": INK, "light_ink": _LIGHT_INK, "text_on_dark": TEXT_ON_DARK,
        "widths": PAGE_WIDTHS,
    }  # fmt: skip
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<style>{_asset('page.css')}{column_rules()}</style></head>"
        f'<body><a class="skip" href="#results">Skip to the results</a>'
        f"<header><h1><bdi>{escape(title)}</bdi></h1>{_list(common)}</header>{_contents(titles)}"
        f'<main id="results" tabindex="-1"><noscript><p>Figures need JavaScript; all numbers are in the tables.</p>'
        f"</noscript>{_verdicts(results, titles)}{''.join(sections)}</main>"
        f"<footer><p>mechicl {escape(versions()['mechicl'])}. This page needs no network.</p></footer>"
        f'<p id="status" class="unseen" role="status"></p>'
        f'<script type="application/json" id="style">{_script_json(style)}</script>'
        f'<script type="text/plain" id="plotly">{drawing_script(figures)}</script>'
        f"<script>{_asset('page.js')}</script></body></html>"
    )


def _contents(titles: Sequence[str]) -> str:
    if len(titles) < 2:
        return ""
    entries = [
        f'<li><a href="#result-{number}"><bdi>{escape(title)}</bdi></a></li>'
        for number, title in enumerate(titles, start=1)
    ]
    return f'<nav aria-label="Results"><ol>{"".join(entries)}</ol></nav>'


def _verdicts(results: Sequence[Result], titles: Sequence[str]) -> str:
    """The verdicts of all results in one table, each linked to its result, which has limits and further numbers."""
    verdicts = Verdicts(verdict for result in results for verdict in result.claims)
    if len(results) < 2 or not verdicts:
        return ""
    numbers = [number for number, result in enumerate(results, start=1) for _ in result.claims]
    rows = [
        {"study": ""} | row | {"study": titles[number - 1]}
        for number, row in zip(numbers, verdicts.rows(notes=False), strict=True)
    ]
    table = verdicts_html(rows, verdicts.outcomes(), [f"#result-{number}" for number in numbers])
    return f'<section aria-labelledby="claims"><h2 id="claims">Claims</h2>{table}</section>'


def _section(result: Result, figure: go.Figure, heading: str, own: Mapping[str, str], number: int) -> str:
    study, said, details = result.study, result.besides_verdicts(), [*result.claims.limits(), *result.details()]
    described_by = f"measured-{number}" if said else f"further-{number}"
    described = f' aria-describedby="{described_by}"' if said or details else ""
    shown = _in_all_widths(figure)
    caption = escape(str((figure.layout.meta or {}).get("subtitle", study.source)))
    published = _published(result)
    further = "".join(table_html(table, caption) for caption, table in study.tables(result).items())
    return (
        f'<section aria-labelledby="result-{number}"><h2 id="result-{number}"><bdi>{escape(heading)}</bdi></h2>'
        f'<p class="soft">{escape(study.source)}</p>{_list(own)}'
        f'<p class="said"><b>{claimant(study.source, study.claim)}:</b> {escape(study.claim)}</p>'
        f"{verdicts_html(result.claims.rows(notes=False), result.claims.outcomes()) if result.claims else ''}"
        f'<figure><div class="plot" role="group" aria-label="Figure: {escape(study.title)}"{described}></div>'
        f"<figcaption>{caption}</figcaption>"
        f'<script type="text/plain">{packed(plotly.io.json.to_json_plotly(shown))}</script></figure>'
        f"{_measured(said, number)}{_details(details, number)}"
        f"{table_html(published, 'Published against measured') if len(published) else ''}"
        f"{table_html(result.summary(), 'Figure data')}{further}"
        f"{_origin(result, number)}</section>"
    )


def _measured(said: str, number: int) -> str:
    return f'<p class="said" id="measured-{number}"><b>Measured:</b> <bdi>{escape(said)}</bdi></p>' if said else ""


def _details(details: Sequence[str], number: int) -> str:
    """What qualifies the verdicts, and further numbers, in a list that a reader opens if it is long."""
    items = "".join(f"<li><bdi>{escape(text)}</bdi></li>" for text in details)
    begins = f'<details id="further-{number}"{" open" if len(details) <= _FEW else ""}>'
    return f"{begins}<summary>Further numbers</summary><ul>{items}</ul></details>" if details else ""


def _in_all_widths(figure: go.Figure) -> dict[str, Any]:
    """A figure's data once, and for each width of a page its layout and what this changes in the traces."""
    drawn = {width: for_page(figure, width=width) for width in PAGE_WIDTHS}
    widest = drawn[PAGE_WIDTHS[0]]["data"]
    data = [{name: _single(value) for name, value in trace.items()} for trace in widest]
    layouts = {
        width: {"layout": one["layout"], "traces": _all_changes(widest, one["data"])} for width, one in drawn.items()
    }
    return {"data": data, "layouts": layouts}


def _all_changes(ours: Sequence[Any], theirs: Sequence[Any]) -> dict[int, dict[str, Any]]:
    """The changes of each trace that has any, by its place."""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return {place: changed for place, (one, other) in pairs if (changed := _changes(one, other))}


def _changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of the other trace that differ; None for one that it lacks."""
    written = plotly.io.json.to_json_plotly
    return {name: other.get(name) for name in {**one, **other} if written(one.get(name)) != written(other.get(name))}


def _single(value: Any) -> Any:
    """Numbers of a trace in single precision, which is more than a screen shows, in half the room."""
    if isinstance(value, np.ndarray) and value.dtype == np.float64 and not (np.abs(value) > 1e37).any():
        return value.astype(np.float32)
    return value


def _published(result: Result) -> pd.DataFrame:
    """Its paper's printed numbers next to one model's; empty if the paper prints none."""
    if result.table["model"].nunique() > 1:
        return pd.DataFrame()
    tables = (label_words.against_published([result]), stages.against_published([result]))
    return next((table for table in tables if len(table)), pd.DataFrame())


def _origin(result: Result, number: int) -> str:
    """The command that reproduces the result, and its provenance, each of which opens."""
    command = str(result.provenance.get("command", ""))
    again = (
        f'<button type="button" class="copy" data-copies="command-{number}">Copy command</button>'
        f'<pre id="command-{number}" class="command" tabindex="0">{escape(command, quote=False)}</pre>'
        if command
        else "<p>This result was made in Python, not by a command.</p>"
    )
    # Quotes mean nothing in an element's text, and escaped they would be a third of it.
    facts = escape(json.dumps(dict(result.provenance), indent=2, default=str, ensure_ascii=False), quote=False)
    return (
        f"<details><summary>Reproduce</summary>{again}</details>"
        f'<details><summary>Provenance</summary><pre class="provenance" tabindex="0">{facts}</pre></details>'
    )


def _list(asked: Mapping[str, str]) -> str:
    if not asked:
        return ""
    entries = "".join(f"<dt>{escape(name)}</dt><dd><bdi>{escape(value)}</bdi></dd>" for name, value in asked.items())
    return f"<dl>{entries}</dl>"


def _script_json(value: Any) -> str:
    """JSON in which no text can end or open a script element."""
    text: str = plotly.io.json.to_json_plotly(value)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return files("mechicl.report").joinpath(name).read_text(encoding="utf-8")
