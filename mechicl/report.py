"""Results to one self-contained HTML page that opens offline."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from mechicl.results import Result, make_folder, write_atomically

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #555; --paper: #fff; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --soft: #aaa; --paper: #16171a; --line: #3a3b40; } }
body { font: 16px/1.55 Inter, Helvetica, Arial, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1080px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.8rem; }
.soft { color: var(--soft); }
.figure { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 6px;
       overflow-x: auto; margin: 1rem 0; } .figure > div { min-width: 760px; }
table { border-collapse: collapse; font-size: .86rem; } td, th { padding: .25rem .7rem; text-align: right;
       border-bottom: 1px solid var(--line); } td:first-child, th:first-child { text-align: left; }
details { margin: .8rem 0; } summary { cursor: pointer; } pre, .scroll { overflow-x: auto; } pre { font-size: .8rem; }
"""


def write_report(results: Sequence[Result], folder: str | Path, *, title: str, command: str = "") -> Path:
    """Write `report.html` into the folder: claim, figure, finding, numbers and provenance of each result.

    The page needs no network: plotly's script is inside. Every string from models, tasks and data is escaped.
    """
    path = make_folder(folder) / "report.html"
    sections = [_section(result, first=index == 0) for index, result in enumerate(results)]
    again = f"<p class=soft>Made by</p><pre>{html.escape(command)}</pre>" if command else ""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{again}{''.join(sections)}</body></html>"
    )
    write_atomically(path, page.encode())
    return path


def _section(result: Result, *, first: bool) -> str:
    study = result.study
    figure = result.figure()
    picture = figure.to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False, "responsive": True})
    numbers = result.summary().to_html(index=False, float_format=lambda value: f"{value:.4f}", border=0)
    origin = html.escape(json.dumps(dict(result.provenance), indent=2, default=str))
    return (
        f"<section><h2>{html.escape(study.title)}</h2>"
        f"<p class=soft>{html.escape(study.source)}</p>"
        f"<p><b>The paper:</b> {html.escape(study.claim)}</p>"
        f"<p><b>Measured:</b> {html.escape(result.finding())}</p>"
        f'<div class=figure role="img" aria-label="{html.escape(result.finding(), quote=True)}">{picture}</div>'
        f"<details><summary>The numbers</summary><div class=scroll>{numbers}</div></details>"
        f"<details><summary>Where they come from</summary><pre>{origin}</pre></details></section>"
    )
