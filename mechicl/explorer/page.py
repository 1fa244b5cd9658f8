"""The explorer as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent


def page(title: str, start: Mapping[str, Any]) -> str:
    """The page: the widget's own script and style, its data, and a policy under which it can fetch nothing."""
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("explorer.css", "explorer.js"))
    # "<" never stands in the data, so that no text in it can end the script element that holds it.
    data = json.dumps(start, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>body{{margin:0}} @media (min-width:800px){{#explorer{{padding:1.5rem}}}}{style}</style></head>"
        f'<body class="mx-page"><div id="explorer"></div><script type="application/json" id="start">{data}</script>'
        f'<script type="module">{script}\nopenPage(document);</script></body></html>'
    )


def iframe(html: str) -> str:
    """A page inside a notebook's output, kept apart from the notebook's own scripts and styles."""
    return (
        '<iframe title="mechicl explorer" sandbox="allow-scripts" style="width:100%;height:760px;border:0" '
        f'srcdoc="{escape(html, quote=True)}"></iframe>'
    )
