"""Handling of prompts that do not fit the context. They are never truncated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mechicl.errors import DoesNotFit, InputError
from mechicl.prompts import Prompt, Template
from mechicl.prompts.written import Written, encode
from mechicl.tasks.examples import Examples

TooLong = Literal["refuse", "drop", "shorter"]


def drop_too_long(prompts: Sequence[Prompt], n_ctx: int | None) -> list[Prompt]:
    """The prompts of at most ``n_ctx`` tokens (the authors' filter in experiment E1).

    Raises:
        InputError: ``n_ctx`` is not given, or no prompt is left.
    """
    if n_ctx is None:
        raise InputError("too_long='drop' needs n_ctx, the number of tokens that prompts must fit in.")
    kept = [prompt for prompt in prompts if prompt.n_read <= n_ctx]
    if not kept:
        raise InputError(
            f"All {len(prompts)} prompts are longer than {n_ctx} tokens (the shortest has "
            f"{min(prompt.n_read for prompt in prompts)}); use fewer shots, too_long='shorter', or a model with a "
            "longer context."
        )
    return kept


def shorter_texts(
    tokenizer: Any, template: Template, label_words: Sequence[str], room: int, pools: Sequence[Examples]
) -> tuple[Examples, Examples]:
    """Keep only examples whose block has at most ``room`` tokens, with any label.

    Raises:
        InputError: No example of a pool is that short.
    """
    after = template.after + template.separator
    ends = (Written(tokenizer).template(template.between).text(word).template(after) for word in label_words)
    n_tokens = [len(end.tokens) for end in encode(tokenizer, ends)]
    longest, kept = label_words[n_tokens.index(max(n_tokens))], []
    for pool in pools:
        heads = (Written(tokenizer).template(template.before).text(text) for text in pool.texts)
        blocks = encode(
            tokenizer,
            (head.template(template.between).text(longest).template(after)
             for head in heads),
        )  # fmt: skip
        lengths = [len(block.tokens) for block in blocks]
        short = [i for i, length in enumerate(lengths) if length <= room]
        if lengths and not short:
            raise DoesNotFit(
                f"No text of {pool.origin} fits its share of the context, {room} tokens with the template "
                f"(the shortest needs {min(lengths)})",
                "use fewer shots or a model with a longer context",
            )
        kept.append(pool.select(short))
    return kept[0], kept[1]
