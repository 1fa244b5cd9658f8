"""Text in figures: never markup, wrapped rather than cut."""

from __future__ import annotations

import re
import textwrap
from html import escape, unescape

_EM, _WIDE = 0.56, 0.68
"""Mean width of a lower-case and of another character of a sans-serif font, in units of its size."""


def shortened(text: object, longest: int = 160) -> str:
    """A text without its middle if it is too long to show; the page and the table have it in full."""
    shown = str(text)
    return shown if len(shown) <= longest else f"{shown[: longest // 2]} … {shown[-longest // 2 :]}"


def plain(text: object) -> str:
    """A text escaped so that plotly shows it literally: labels interpret some HTML, and TeX between dollar signs."""
    return escape(shortened(text), quote=False).replace("$", "&#36;")


def wrapped(text: str, pixels: float, size: float) -> list[str]:
    """The lines of a text wrapped to a width; words longer than a line are broken."""
    return textwrap.wrap(text, max(4, int(pixels / (size * _EM)))) or [""]


def wrapped_html(text: str, pixels: float, size: float) -> str:
    """The same in plotly's format."""
    return "<br>".join(plain(line) for line in wrapped(text, pixels, size))


def width_of(text: str, size: float) -> float:
    """Approximate width of a line in pixels; an upper estimate."""
    shown = unescape(re.sub(r"<[^>]*>", "", text))
    return sum(_EM if character.islower() else _WIDE for character in shown) * size
