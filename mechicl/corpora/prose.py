"""Extract the English prose from documentation text, without its markup.

Docstrings mix prose with signatures, examples, argument lists and tables. Kept paragraphs read as English: they begin
and end like a sentence, contain no code, and consist mostly of words, enough of them common.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MIN_WORDS = 12
"""Number of words of the shortest paragraph to keep; most shorter ones are labels, list items, and examples."""

_ITEM = re.compile(r"^ *(?:[*+-]|\(?\d+[.)]) +")
_BETWEEN = re.compile(r"\n\s*\n|\n(?= *(?:[*+-]|\(?\d+[.)]) )")
"""A list item's mark; and the separator of paragraphs: an empty line, or the next item."""
_MARKUP = (
    (re.compile(r":[\w:+-]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`|`([^`<]+?)\s*<[^`>]*>`__?|`+([^`']*)[`']+_*"), r"\1\2\3"),
    (re.compile(r"(?<![\w*])\*{1,2}(\w[^*]*?)\*{1,2}(?![\w*])"), r"\1"),
    (re.compile(r"\s\[(?:\d+|#\w*)\]_?(?!\w)"), ""),
    (re.compile(r" {2,}"), " "),
    (re.compile(r"(?<=[a-z]-) (?=[a-z])"), ""),
)
"""Roles, links, literals; emphasis; footnotes; spaces after a full stop; a line that ended in a hyphen."""
_GAP = re.compile(r"[^\s.!?:\"')] {2,}\S")
"""Columns of a table."""
_ENTRY = re.compile(r"[\w.*\[\]()\"']*[\w*\])\"'](?: --? |  )")
"""The start of a glossary entry: a name, and a dash or a gap."""
_LAST_COLON = re.compile(r"(.*[.!?][\"')]*) [A-Z\"'(].*:", re.DOTALL)
"""All sentences except the last, which introduces an example that is dropped."""
_OPENING = re.compile(r"[\"'(“]?[A-Z]")
_ENDING = re.compile(r"[.!?][\"')”]*$")
_NOISE = re.compile(
    r"[<>{}\\|@#$^~`]|\s!?=|==|::|://|->|\.\.\. |; *$|\w\[|XXX|TODO|FIXME|[Cc]opyright|(?:e\.g|i\.e)\.$|"
    r"[a-z)\"'] (?:This|These|If|It|When|Returns?|Raises?|Note|See) |"
    r"^(?:Changed|Added|New|Removed|Deprecated) (?:in|since) "
)
"""Code, addresses, remarks; sentences without a stop between them; notes on versions."""
_WORD = re.compile(r"(?<!\S)[\"'(“‘]*[A-Za-z]+(?:['’-][A-Za-z]+)*[\"')”’]*[.,;:!?]*[\"')”’]*(?!\S)")
_COMMON = re.compile(
    r"(?<!\S)(?:the|an?|of|to|and|in|is|that|it|for|be|are|as|this|with|or|if|not|by|on|from|which|can|will|when|at|you|may|"
    r"has|have|any|no|but|then|than|so|does|used|its|there|these|only|one|all|into|must|should|was|were|they)(?!\S)",
    re.IGNORECASE,
)
_LEAST_WORDS = 0.85
"""Least share of words that consist only of letters."""
_LEAST_COMMON = 0.25
"""Least share of words that are among the most common in English; lists of names have less."""


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring (its indentation removed) that are English prose, each on one line."""
    example_of: int | None = None
    for block in _BETWEEN.split(text.expandtabs()):
        lines = _ITEM.sub(lambda item: " " * len(item[0]), block).strip("\n").split("\n")
        indents = {len(line) - len(line.lstrip()) for line in lines}
        indent = min(indents)
        if example_of is not None and indent > example_of:
            continue
        example_of = indent if lines[-1].rstrip().endswith(":") else None
        if len(indents) > 1 or len(block.split()) < MIN_WORDS:
            continue
        if not any(_ENTRY.match(line.lstrip()) or _GAP.search(line) for line in lines):
            paragraph = _plain(" ".join(line.strip() for line in lines))
            if _is_prose(paragraph):
                yield paragraph


def _plain(paragraph: str) -> str:
    for pattern, plain in _MARKUP:
        paragraph = pattern.sub(plain, paragraph)
    introduces = _LAST_COLON.fullmatch(paragraph)
    return introduces[1] if introduces else paragraph


def _is_prose(paragraph: str) -> bool:
    words = paragraph.split()
    return (
        len(words) >= MIN_WORDS
        and _OPENING.match(paragraph) is not None
        and _ENDING.search(paragraph) is not None
        and _NOISE.search(paragraph) is None
        and paragraph.isprintable()
        and len(_WORD.findall(paragraph)) >= _LEAST_WORDS * len(words)
        and len(_COMMON.findall(paragraph)) >= _LEAST_COMMON * len(words)
    )
