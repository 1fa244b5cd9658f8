"""A prompt as HTML: the text with w, p and q marked in colour, and a legend in words."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mechicl.prompts.prompt import Prompt

_STYLES = {
    "w": "background:#dbeafe",
    "p": "background:#fde68a;font-weight:600",
    "anchor": "background:#fbbf24;font-weight:600;text-decoration:underline",
    "q": "background:#fca5a5;font-weight:600",
}
_MEANING = {
    "w": "w: demonstration text",
    "p": "p: label word",
    "anchor": "p: anchor",
    "q": "q: target",
}


def prompt_html(prompt: Prompt) -> str:
    """The prompt's text with its positions marked; whatever stands in the text is escaped."""
    roles = _character_roles(prompt)
    runs = (
        (role, "".join(character for _, character in run))
        for role, run in groupby(zip(roles, prompt.string, strict=True), key=lambda pair: pair[0])
    )
    body = "".join(_span(role, text) for role, text in runs) or f"<i>{len(prompt)} tokens, text not stored</i>"
    legend = " ".join(_span(role, meaning) for role, meaning in _MEANING.items() if role in roles)
    return (
        '<div style="background:#fff;color:#111;border:1px solid #ddd;padding:.6em;max-width:60em">'
        f'<div style="font-size:.85em;margin-bottom:.5em">{legend} <span>{escape(repr(prompt))}</span></div>'
        '<pre style="white-space:pre-wrap;max-height:24em;overflow:auto;margin:0;color:#111">'
        f"{body}</pre></div>"
    )


def _span(role: str, text: str) -> str:
    # bdi keeps right-to-left text, and bidirectional overrides in it, inside its own run.
    return f'<bdi style="{_STYLES.get(role, "")}">{escape(text)}</bdi>'


def _character_roles(prompt: Prompt) -> list[str]:
    """What each character belongs to; later roles win where two tokens share a character."""
    roles = [""] * len(prompt.string)
    marked = [
        ("w", prompt.w),
        ("p", prompt.label_positions),
        ("anchor", prompt.anchors),
        ("q", (prompt.target,)),
    ]
    for role, positions in marked:
        for position in positions:
            start, stop = prompt.offsets[position] if prompt.offsets else (0, 0)
            roles[start:stop] = [role] * (stop - start)
    return roles
