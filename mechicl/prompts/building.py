"""Build prompts with known positions from blocks of text.

The string is assembled from pieces with recorded character spans, tokenized once as a whole, and each token is assigned
to the piece whose characters it covers. The space before a text or a label belongs to it, as for tokenizers. A token
that covers two pieces belongs to the label rather than the template, and to the template rather than the text: a label
is never lost, and *w* contains only text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mechicl.doors import door
from mechicl.errors import DoesNotFit, InputError
from mechicl.models import tokenizer_digest
from mechicl.models.tokenizers import bos_id
from mechicl.prompts.chat import Layout, chat_layout, check_rendered
from mechicl.prompts.labels import CHOOSE, Score, scoring_tokens
from mechicl.prompts.prompt import Demonstration, Prompt, PromptRows
from mechicl.prompts.template import Template
from mechicl.prompts.written import Written, encode

Anchor = Literal["first", "last"]
_Offsets = Sequence[tuple[int, int]]


@door
@dataclass(frozen=True)
class Shot:
    """An example with its answer; a text of None is left out together with the space before it."""

    text: str | None
    label_class: int
    row: int = -1


@door
@dataclass(frozen=True)
class Query:
    """The question after the demonstrations."""

    text: str
    gold: int | None = None
    row: int | None = None


@dataclass(frozen=True)
class _Block:
    """Characters of one block: where it starts, its text and its label (None for the query)."""

    start: int
    text: tuple[int, int]
    label: tuple[int, int] | None


@door
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
    chat: bool = False,
    score: Score = "first",
) -> list[Prompt]:
    """Build one prompt for each (demonstrations, query).

    Args:
        tokenizer: A fast tokenizer.
        label_words: The word of each class, in class order.
        contents: The demonstrations, in prompt order, and the query of each prompt.
        anchor: The sub-token of a label word that is its anchor.
        prepend_bos: Put the tokenizer's BOS token first.
        n_ctx: The model's context length in tokens, or None not to check it.
        chat: Write every example as a turn of a conversation in the tokenizer's own chat template: a text with the
            template around it is the user's message, a label word without its leading space the answer.
        score: "first" scores a class by the first token of its label word, as the paper does; "sequence" by the
            log-probability of the whole word.

    Names of special tokens in the template, such as "<|im_start|>", become these tokens; in texts and label words they
    are plain text.

    Raises:
        InputError: The label words cannot tell the classes apart (:func:`scoring_tokens`); the tokenizer
            is slow, or has no BOS token to prepend or no chat template; or a prompt is longer than the context.
            Prompts are never cut.
    """
    layouts: dict[int, Layout] = {}
    for shots, _ in contents:
        n = len(shots)
        layouts[n] = layouts.get(n) or (
            chat_layout(tokenizer, template, label_words, n)
            if chat
            else Layout((template,) * (n + 1), tuple(label_words))
        )
    written = [_write(tokenizer, layouts[len(shots)], shots, query) for shots, query in contents]
    scored = {
        n: scoring_tokens(tokenizer, layout.templates[-1], layout.label_words, class_names, score)
        for n, layout in layouts.items()
    }
    digest = tokenizer_digest(tokenizer)
    prompts = []
    for (shots, query), (text, blocks), (tokens, offsets) in zip(
        contents, written, encode(tokenizer, [text for text, _ in written]), strict=True
    ):
        words, scoring = layouts[len(shots)].label_words, scored[len(shots)]
        if chat:
            answers = [words[shot.label_class] for shot in shots]
            check_rendered(tokenizer, template, [*(shot.text for shot in shots), query.text], answers, text.string)
        bos = (bos_id(tokenizer),) if prepend_bos else ()
        bos = () if tuple(tokens[:1]) == bos else bos  # a template may already begin with it
        demonstrations, query_start, query_text = _locate(blocks, shots, offsets, anchor, len(bos))
        prompt = Prompt(
            tokens=(*bos, *tokens), string=text.string, demonstrations=demonstrations, query_start=query_start,
            query_text=query_text, target=len(bos) + len(tokens) - 1, label_words=words,
            label_ids=tuple(first for first, *_ in scoring), label_tokens=scoring if score == "sequence" else (),
            class_names=tuple(class_names), gold=query.gold, offsets=(*((0, 0) for _ in bos), *offsets),
            ids=PromptRows(tuple(shot.row for shot in shots), query.row), prepend_bos=prepend_bos, task=task,
            tokenizer_digest=digest,
        )  # fmt: skip
        _check_labels(prompt, scoring if score == "sequence" else tuple(one[:1] for one in scoring))
        prompts.append(prompt)
    if n_ctx is not None:
        check_length(prompts, n_ctx)
    return prompts


def check_length(prompts: Sequence[Prompt], n_ctx: int) -> None:
    """Raise DoesNotFit, an InputError, if a prompt has more tokens than the context holds."""
    lengths = [prompt.n_read for prompt in prompts]
    if max(lengths, default=0) > n_ctx:
        over = sum(length > n_ctx for length in lengths)
        raise DoesNotFit(
            f"{over} of {len(prompts)} prompts are longer than the context of {n_ctx} tokens (the longest "
            f"has {max(lengths)})",
            "use fewer shots, a model with a longer context, or too_long='drop' or 'shorter'",
        )


def _write(tokenizer: Any, layout: Layout, shots: Sequence[Shot], query: Query) -> tuple[Written, list[_Block]]:
    """The prompt as a string, and the characters of its blocks, the query's last."""
    written = Written(tokenizer)
    blocks: list[_Block] = []
    examples: list[Shot | Query] = [*shots, query]
    for template, example in zip(layout.templates, examples, strict=True):
        start = len(written.string)
        before = template.before.rstrip(" ")
        text_start = len(written.template(before).string)
        if example.text is not None:
            written.template(template.before[len(before) :]).text(example.text)
        text = (text_start, len(written.string)) if example.text else (text_start, text_start)
        written.template(template.between)
        label = None
        if isinstance(example, Shot):
            if not 0 <= example.label_class < len(layout.label_words):
                raise InputError(
                    f"There is no class {example.label_class}; there are {len(layout.label_words)}, from 0."
                )
            word = layout.label_words[example.label_class]
            label = (len(written.string), len(written.string) + len(word))
            written.text(word).template(template.after).template(template.separator)
        blocks.append(_Block(start, text, label))
    return written, blocks


def _locate(
    blocks: Sequence[_Block], shots: Sequence[Shot], offsets: _Offsets, anchor: Anchor, shift: int
) -> tuple[tuple[Demonstration, ...], int, tuple[int, ...]]:
    """Demonstrations, start of the query and positions of its text, in tokens, each moved by ``shift``."""
    starts, stops = [start for start, _ in offsets], [stop for _, stop in offsets]

    def covered(span: tuple[int, int]) -> range:
        return range(bisect_right(stops, span[0]), bisect_left(starts, span[1])) if span[0] < span[1] else range(0)

    def inside(span: tuple[int, int]) -> Iterator[int]:
        return (i for i in covered(span) if span[0] <= starts[i] and stops[i] <= span[1])

    # A block begins with the first token that starts in it; a token across its edge belongs to the block before.
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


def _check_labels(prompt: Prompt, scoring: Sequence[tuple[int, ...]]) -> None:
    """Check that a label occurs in the prompt as the tokens that score its class."""
    for demonstration in prompt.demonstrations:
        c = demonstration.label_class
        tokens = tuple(prompt.tokens[position] for position in demonstration.label[: len(scoring[c])])
        if tokens != scoring[c]:
            raise InputError(
                f"The label word {prompt.label_words[c]!r} begins with the tokens {list(tokens)} inside a "
                f"demonstration but with {list(scoring[c])} elsewhere, so they cannot score it; begin it "
                f"with a space, or {CHOOSE}."
            )
