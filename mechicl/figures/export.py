"""Figures as PNG, SVG or PDF, with a page's width or sized for a paper's column."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import plotly.graph_objects as go
import plotly.io

from mechicl.errors import InputError
from mechicl.figures.arrange import WIDE, arrange

Format = Literal["png", "svg", "pdf"]
Width = Literal["page", "single", "double"]

_INCH = 96
"""Width of an SVG or PDF in pixels."""
_WIDTHS = {"page": WIDE, "single": 3.3 * _INCH, "double": 6.9 * _INCH}
_TEXT = {"page": 13.0, "single": 7.5 * _INCH / 72, "double": 8 * _INCH / 72}
"""Text size in pixels; in a column, that of a caption."""


def images(asked: Sequence[tuple[go.Figure, Format, Width]]) -> list[bytes]:
    """Figures as the contents of files, all drawn by one browser.

    A paper's column is 3.3 inches (`single`) or 6.9 (`double`) wide, without a title, which the caption replaces.

    Raises:
        InputError: the kind or width is unknown, or kaleido or Chrome is missing.
    """
    for _, kind, width in asked:
        if kind not in get_args(Format) or width not in _WIDTHS:
            raise InputError(
                f"Figures are exported as png, svg or pdf, in width page, single or double; got {kind!r}, {width!r}."
            )
    try:
        import kaleido  # noqa: F401
    except ImportError as error:
        raise InputError("Exporting figures needs kaleido: pip install kaleido.") from error
    drawn = [_sized(figure, width) for figure, _, width in asked]
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)  # it logs tracebacks of problems that it then fixes
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.{kind}" for number, (_, kind, _) in enumerate(asked)]
        try:
            plotly.io.write_images(
                fig=drawn,
                file=paths,
                width=[round(_WIDTHS[width]) for *_, width in asked],
                height=[figure.layout.height for figure in drawn],  # kaleido ignores the layout of several figures
                scale=[3 if kind == "png" else 1 for _, kind, _ in asked],
            )
        except RuntimeError as error:
            if "chrome" not in str(error).lower():
                raise
            raise InputError(
                "Exporting figures needs Chrome or Chromium, which kaleido does not find; install one, or run "
                "plotly_get_chrome."
            ) from error
        return [path.read_bytes() for path in paths]


def _sized(figure: go.Figure, width: Width) -> go.Figure:
    """The figure laid out for this width; in a column with thinner lines and smaller markers."""
    drawn = arrange(go.Figure(figure), width=_WIDTHS[width], heading=width == "page", size=_TEXT[width])
    if width != "page":
        for trace in drawn.select_traces({"type": "scatter"}):
            trace.update(line_width=0 if trace.fill else 1.4, marker_size=0.7 * (trace.marker.size or 5))
    return drawn
