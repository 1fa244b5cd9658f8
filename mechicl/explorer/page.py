"""The explorer as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent


def script() -> str:
    """The script of both the widget and the page, concatenated from its files."""
    names = ("picture", "sources", "layers", "readout", "panels", "changes", "explorer")
    return "\n".join((ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in names)


def page(title: str, start: Mapping[str, Any]) -> str:
    """The page: the widget's own script and style, its data, and a policy that forbids fetching anything."""
    style = (ASSETS / "explorer.css").read_text(encoding="utf-8")
    # The data never contain "<", so no text in them can end the script element that holds them.
    data = json.dumps(start, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>body{{margin:0}} @media (min-width:800px){{#explorer{{padding:1.5rem}}}}{style}</style></head>"
        f'<body class="mx-page"><div id="explorer"></div><script type="application/json" id="start">{data}</script>'
        f'<script type="module">{script()}\nopenPage(document);</script></body></html>'
    )


def plain_page(title: str, body: str) -> str:
    """A self-contained HTML page, in light and dark colours, without scripts."""
    style = (
        ":root{color-scheme:light dark}body{font:14px/1.45 Inter,Helvetica,Arial,sans-serif;margin:1rem auto;"
        "max-width:1600px;padding:0 16px;overflow-wrap:anywhere}p{max-width:1100px}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f'<title>{escape(title)}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body>{body}</body></html>"
    )


def iframe(html: str) -> str:
    """A page inside a notebook's output, isolated from the notebook's own scripts and styles."""
    return (
        '<iframe title="mechicl explorer" sandbox="allow-scripts" style="width:100%;height:760px;border:0" '
        f'srcdoc="{escape(html, quote=True)}"></iframe>'
    )
