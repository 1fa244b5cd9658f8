"""A prompt shows itself: marked, explained in words, and harmless whatever its text."""

from __future__ import annotations

import re
from html import unescape

import pytest

from mechicl.prompts import Prompt, PromptSet, Shot
from tests.prompts.test_building import build
from tests.prompts.vocabularies import byte_level, metaspace

TEXTS = ["fine film", '<script>alert(1)</script> & "quotes"', "שלום \u202e עולם", "🙂" * 20, "word " * 2000, "", "a\nb"]


def shown(html: str) -> str:
    """What a browser would show of the text."""
    body = re.search(r"<pre[^>]*>(.*)</pre>", html, re.DOTALL)
    assert body
    return unescape(re.sub(r"<[^>]*>", "", body.group(1)))


@pytest.mark.parametrize("make", [byte_level, metaspace])
@pytest.mark.parametrize("text", TEXTS)
def test_the_whole_text_is_shown_and_nothing_in_it_is_markup(make: type, text: str) -> None:
    prompt = build(make(), [Shot(text, 0), Shot("b", 1)], text, label_words=("Negative", "Positive"), prepend_bos=True)
    html = prompt._repr_html_()
    assert shown(html) == prompt.string
    assert set(re.findall(r"<(\w+)", html)) <= {"div", "span", "pre", "bdi"}


def test_w_p_and_q_are_marked_and_the_legend_says_so() -> None:
    html = build(byte_level(" Neg", " Pos"), [Shot("fine film", 0)], "bad")._repr_html_()
    for words in ("w: demonstration text", "p: label word", "p: anchor", "q: target"):
        assert words in html
    marked = re.findall(r'<bdi style="background[^"]*">([^<]*)</bdi>', html.split("<pre")[1])
    assert marked == [" fine film", " Neg", "ative", ":"]


def test_a_stored_prompt_without_text_shows_its_positions() -> None:
    html = Prompt.from_positions([1, 2, 3], [[1], []], [1, 2])._repr_html_()
    assert "text not stored" in html
    assert "class 0@1" in html


def test_a_set_shows_its_first_prompt() -> None:
    prompts = PromptSet.of([build(byte_level(), [Shot("fine <film>", 0)], label_words=("N", "P"))])
    assert "1 prompts" in repr(prompts)
    assert "fine &lt;film&gt;" in prompts._repr_html_()
    assert "0 prompts" in PromptSet(())._repr_html_()
