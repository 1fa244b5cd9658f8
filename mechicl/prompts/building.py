"""From blocks of text to prompts whose positions are known.

The string is put together from pieces whose character spans are noted, tokenized once as a whole, and each
token is given to the piece whose characters it covers. The space before a text or a label belongs to it, as
tokenizers see it. A token that covers two pieces belongs to the label rather than to the template, and to the
template rather than to the text: a label is never lost, and *w* holds nothing but text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mechicl.errors import DoesNotFit, InputError
from mechicl.models import tokenizer_digest
from mechicl.models.tokenizers import bos_id
from mechicl.prompts.labels import CHOOSE, encode, first_label_tokens
from mechicl.prompts.prompt import Demonstration, Prompt, Rows
from mechicl.prompts.template import Template

Anchor = Literal["first", "last"]
_Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Shot:
    """A solved example; a text of None is left out together with the space before it."""

    text: str | None
    label_class: int
    row: int = -1


@dataclass(frozen=True)
class Query:
    """What is asked after the demonstrations."""

    text: str
    gold: int | None = None
    row: int | None = None


@dataclass(frozen=True)
class _Block:
    """Characters of one block: where it starts, its text and its label (None for the query)."""

    start: int
    text: tuple[int, int]
    label: tuple[int, int] | None


def build_prompts(
    tokenizer: Any,
    template: Template,
    label_words: Sequence[str],
    contents: Sequence[tuple[Sequence[Shot], Query]],
    *,
    class_names: Sequence[str],
    anchor: Anchor = "first",
    prepend_bos: bool = False,
    n_ctx: int | None = None,
    task: str = "",
) -> list[Prompt]:
    """Build one prompt for each (demonstrations, query).

    Args:
        tokenizer: A fast tokenizer.
        label_words: The word of each class, in class order.
        contents: The demonstrations, in prompt order, and the query of each prompt.
        anchor: Which sub-token of a label word is its anchor.
        prepend_bos: Put the tokenizer's BOS token first.
        n_ctx: The model's context length in tokens, or None not to check it.

    Raises:
        InputError: The label words cannot tell the classes apart (:func:`first_label_tokens`); the tokenizer
            is slow or has no BOS token to prepend; or a prompt is longer than the context. Prompts are never
            cut.
    """
    if anchor not in ("first", "last"):
        raise InputError(f"anchor is {anchor!r}; it must be 'first' or 'last', the sub-token that stands for a label.")
    label_ids = first_label_tokens(tokenizer, template, label_words, class_names)
    bos = (bos_id(tokenizer),) if prepend_bos else ()
    written = [_write(template, label_words, shots, query) for shots, query in contents]
    encoded = encode(tokenizer, [string for string, _ in written])
    digest = tokenizer_digest(tokenizer)
    prompts = []
    for (shots, query), (string, blocks), tokens, offsets in zip(
        contents, written, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        demonstrations, query_start, query_text = _locate(blocks, shots, offsets, anchor, len(bos))
        prompt = Prompt(
            tokens=(*bos, *tokens), string=string, demonstrations=demonstrations, query_start=query_start,
            query_text=query_text, target=len(bos) + len(tokens) - 1, label_words=tuple(label_words),
            label_ids=label_ids, class_names=tuple(class_names), gold=query.gold,
            offsets=(*((0, 0) for _ in bos), *map(tuple, offsets)),
            ids=Rows(tuple(shot.row for shot in shots), query.row), prepend_bos=prepend_bos, task=task,
            tokenizer_digest=digest,
        )  # fmt: skip
        _check_labels(prompt)
        prompts.append(prompt)
    if n_ctx is not None:
        check_length(prompts, n_ctx)
    return prompts


def check_length(prompts: Sequence[Prompt], n_ctx: int) -> None:
    """Raise DoesNotFit, an InputError, if a prompt has more tokens than the context holds."""
    longest = max(prompts, key=len, default=None)
    if longest is not None and len(longest) > n_ctx:
        over = sum(len(prompt) > n_ctx for prompt in prompts)
        raise DoesNotFit(
            f"{over} of {len(prompts)} prompts are longer than the context of {n_ctx} tokens (the longest "
            f"has {len(longest)})",
            "use fewer shots, a model with a longer context, or too_long='drop' or 'shorter'",
        )


def _write(
    template: Template, label_words: Sequence[str], shots: Sequence[Shot], query: Query
) -> tuple[str, list[_Block]]:
    """The prompt as a string, and the characters of its blocks, the query's last."""
    string = ""
    blocks: list[_Block] = []
    examples: list[Shot | Query] = [*shots, query]
    for example in examples:
        start = len(string)
        string += template.before.rstrip(" ")
        text_start = len(string)
        string += "" if example.text is None else template.before[text_start - start :] + example.text
        text = (text_start, len(string)) if example.text else (text_start, text_start)
        string += template.between
        label = None
        if isinstance(example, Shot):
            word = label_words[example.label_class]
            label = (len(string), len(string) + len(word))
            string += word + template.after + template.separator
        blocks.append(_Block(start, text, label))
    return string, blocks


def _locate(
    blocks: Sequence[_Block], shots: Sequence[Shot], offsets: _Offsets, anchor: Anchor, shift: int
) -> tuple[tuple[Demonstration, ...], int, tuple[int, ...]]:
    """Demonstrations, start of the query and positions of its text, in tokens, each moved by ``shift``."""
    starts, stops = [start for start, _ in offsets], [stop for _, stop in offsets]

    def covered(span: tuple[int, int]) -> range:
        return range(bisect_right(stops, span[0]), bisect_left(starts, span[1])) if span[0] < span[1] else range(0)

    def inside(span: tuple[int, int]) -> Iterator[int]:
        return (i for i in covered(span) if span[0] <= starts[i] and stops[i] <= span[1])

    # A block begins with the first token that starts in it: a token over its edge belongs to the one before.
    edges = [bisect_left(starts, block.start) for block in blocks] + [len(offsets)]
    demonstrations = []
    for i, (block, shot) in enumerate(zip(blocks, shots, strict=False)):
        label = tuple(covered(block.label or (0, 0)))
        text = tuple(t for t in inside(block.text) if t not in label)
        taken = {*label, *text}
        demonstrations.append(
            Demonstration(
                label_class=shot.label_class,
                span=(edges[i] + shift, edges[i + 1] + shift),
                text=tuple(t + shift for t in text),
                label=tuple(t + shift for t in label),
                template=tuple(t + shift for t in range(edges[i], edges[i + 1]) if t not in taken),
                anchor=label[0 if anchor == "first" else -1] + shift,
            )
        )
    return tuple(demonstrations), edges[-2] + shift, tuple(t + shift for t in inside(blocks[-1].text))


def _check_labels(prompt: Prompt) -> None:
    """A label must stand in the prompt as the token by which its class is scored."""
    for demonstration in prompt.demonstrations:
        c = demonstration.label_class
        found = prompt.tokens[demonstration.label[0]]
        if found != prompt.label_ids[c]:
            raise InputError(
                f"The label word {prompt.label_words[c]!r} begins with token {found} inside a demonstration "
                f"but with token {prompt.label_ids[c]} elsewhere, so one token cannot score it; begin it "
                f"with a space, or {CHOOSE}."
            )
