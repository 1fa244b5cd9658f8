"""Text in figures: never markup, wrapped rather than cut."""

from __future__ import annotations

import re
import textwrap
from html import escape, unescape

_EM, _WIDE = 0.56, 0.68
"""Mean width of a lower-case and of another character of a sans-serif font, in units of its size."""


def shortened(text: object, longest: int = 160) -> str:
    """A text without its middle where it is longer than anything can show; page and table have the whole."""
    shown = str(text)
    return shown if len(shown) <= longest else f"{shown[: longest // 2]} … {shown[-longest // 2 :]}"


def plain(text: object) -> str:
    """A text that plotly shows as it is: its labels understand some HTML, and TeX between two dollars."""
    return escape(shortened(text), quote=False).replace("$", "&#36;")


def wrapped(text: str, pixels: float, size: float) -> list[str]:
    """The lines of a text that has some width; words longer than a line are broken."""
    return textwrap.wrap(text, max(4, int(pixels / (size * _EM)))) or [""]


def wrapped_html(text: str, pixels: float, size: float) -> str:
    """The same as plotly takes it."""
    return "<br>".join(plain(line) for line in wrapped(text, pixels, size))


def width_of(text: str, size: float) -> float:
    """About how many pixels a line takes, rather too many than too few."""
    shown = unescape(re.sub(r"<[^>]*>", "", text))
    return sum(_EM if character.islower() else _WIDE for character in shown) * size
