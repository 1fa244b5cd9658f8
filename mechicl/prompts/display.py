"""A prompt as HTML: the text with w, p and q marked in colour, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from itertools import groupby

_MEANING = {"w": "w: demonstration text", "p": "p: label word", "anchor": "p: anchor", "q": "q: target"}


def marked_html(text: str, roles: Sequence[str], caption: str) -> str:
    """A prompt's text with its positions marked and everything escaped.

    `roles` has one of "w", "p", "anchor", "q" or "" for each character; without text there is only the caption. Colours
    are inherited, and marks are transparent, so the same HTML suits light and dark pages.
    """
    runs = (
        (role, "".join(character for _, character in run))
        for role, run in groupby(zip(roles, text, strict=True), key=lambda pair: pair[0])
    )
    body = "".join(_span(role, part) for role, part in runs) or "<i>text not stored</i>"
    legend = " ".join(_span(role, meaning) for role, meaning in _MEANING.items() if role in roles)
    return (
        '<div style="border:1px solid #8886;padding:.6em;max-width:60em">'
        f'<div style="font-size:.85em;margin-bottom:.5em">{legend} <span>{escape(caption)}</span></div>'
        '<pre style="white-space:pre-wrap;max-height:24em;overflow:auto;margin:0;color:inherit;background:none">'
        f"{body}</pre></div>"
    )


def _span(role: str, text: str) -> str:
    # bdi keeps right-to-left text, and bidirectional overrides in it, inside its own run.
    return f'<bdi style="{_styles().get(role, "")}">{escape(text)}</bdi>'


@cache
def _styles() -> dict[str, str]:
    # Imported here, because figures import plotly, which is not needed to build prompts.
    from mechicl.figures import LABEL_COLOUR, TARGET_COLOUR, TEXT_COLOUR, faint

    label = f"background:{faint(LABEL_COLOUR, 0.32)};font-weight:600"
    return {
        "w": f"background:{faint(TEXT_COLOUR)}",
        "p": label,
        "anchor": f"{label};text-decoration:underline",
        "q": f"background:{faint(TARGET_COLOUR, 0.4)};font-weight:600",
    }
