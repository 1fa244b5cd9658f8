"""The script that draws a page's figures: compressed plotly.js, in the smallest bundle that the figures need.

`plotly-cartesian.min.js.gz` is the package plotly.js-cartesian-dist-min (MIT), compressed once by `gzip -9 -n`. It is
used if it matches plotly's own version and supports every trace; otherwise all of plotly.js is used.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs, get_plotlyjs_version

CARTESIAN_VERSION = "4.1.1"
_CARTESIAN = frozenset({
    "bar", "box", "contour", "heatmap", "histogram", "histogram2d", "histogram2dcontour", "image", "pie", "scatter",
    "scatterternary", "violin",
})  # fmt: skip


def drawing_script(figures: Sequence[go.Figure]) -> str:
    """plotly.js for these figures: gzip in base64, about 0.7 MB, or 2.0 MB if all of it is needed."""
    traces = {trace.type for figure in figures for trace in figure.data}
    small = get_plotlyjs_version() == CARTESIAN_VERSION and traces <= _CARTESIAN
    return b64encode(_cartesian() if small else _whole()).decode()


def packed(text: str) -> str:
    """A figure's JSON as the page's script unpacks it: gzip in base64, in which nothing can end a script element."""
    return b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


@cache
def _cartesian() -> bytes:
    return files("mechicl.report").joinpath("plotly-cartesian.min.js.gz").read_bytes()


@cache
def _whole() -> bytes:
    return gzip.compress(get_plotlyjs().encode(), 9, mtime=0)
