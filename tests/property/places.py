"""Where everything must stand in a prompt, worked out by hand from what was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.property.cases import Case


def expected(case: Case, texts: Sequence[str], words: Sequence[str]) -> tuple[str, list[str]]:
    """The prompt with these texts (the query's last) and answers, and the part that each character belongs to.

    The spaces before a text are the text's, as tokenizers see them.
    """
    string, parts = "", list[str]()

    def add(piece: str, part: str) -> None:
        nonlocal string
        string += piece
        parts.extend([part] * len(piece))

    head = case.before.rstrip(" ")
    for number, text in enumerate(texts):
        query = number == len(words)
        in_text = "text" if query else f"text {number}"
        template = "template" if query else f"template {number}"
        add(head, template)
        add(case.before[len(head) :] + text, in_text if text else template)
        add(case.between, template)
        if not query:
            add(words[number], f"label {number}")
            add(case.after + case.separator, template)
    return string, parts


def part_of_token(parts: Sequence[str], start: int, stop: int) -> str:
    """A token over two parts is the label's before the template's, and the template's before the text's; template of
    the block in which the token begins."""
    covered = parts[start:stop]
    labels = [part for part in covered if part.startswith("label")]
    if labels:
        return labels[0]
    if len(set(covered)) == 1:
        return covered[0]
    number = covered[0].split()[1:]
    return " ".join(["template", *number])


def check_positions(case: Case, row: Any, tokenizer: Any, *, gold: bool = True) -> None:
    """One prompt of a table of `WhereItStands` is what was written, and every token is claimed by what it covers."""
    demonstrations = list(row.rows[:-1])
    asked = case.test or case.train
    text, label = list(case.train[0])
    shown = [case.train[i] for i in demonstrations]
    texts = [*(one[text] for one in shown), asked[row.rows[-1]][text]]
    given = list(case.words.values())
    assert list(row.words) in (given, [word.lstrip(" ") for word in given])
    string, parts = expected(case, texts, [row.words[c] for c in row.shown])
    assert row.string == string
    assert tokenizer.decode(list(row.tokens)) == string
    assert row.target == len(row.tokens) - 1
    for position, (start, stop) in enumerate(zip(row.start, row.stop, strict=True)):
        assert start < stop, "every token covers something"
        assert row.part[position] == part_of_token(parts, start, stop), (position, string[start:stop])
    assert sorted({c for start, stop in zip(row.start, row.stop, strict=True) for c in range(start, stop)}) == list(
        range(len(string))
    )
    for number, anchor in enumerate(row.anchors):
        assert anchor == list(row.part).index(f"label {number}")
    names = list(case.words)
    for one, c in zip([*shown, asked[row.rows[-1]]], [*row.shown, row.gold], strict=True):
        written = one[label]
        if gold and isinstance(written, str) and written in names:
            assert c == names.index(written)
