"""A prompt of free text, or of a conversation: no demonstrations and no label words, only possible continuations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mechicl.errors import InputError, first_line, retold
from mechicl.models import tokenizer_digest
from mechicl.models.tokenizers import bos_id
from mechicl.prompts.prompt import Prompt
from mechicl.prompts.written import Written, encode


def free_prompt(
    tokenizer: Any, text: str | Sequence[Mapping[str, str]], answers: Sequence[str] = (), *, prepend_bos: bool = False
) -> Prompt:
    """A text, or a conversation as messages with `role` and `content`, whose last token is the target q.

    Args:
        tokenizer: a fast tokenizer.
        text: a text; or messages, which the tokenizer's chat template writes, with its request for the next answer.
        answers: possible continuations, such as " Paris"; each is a class, scored by its first token.
        prepend_bos: put the tokenizer's BOS token first, unless the chat template does.

    Names of special tokens in a chat template become these tokens; in a text they are plain text.

    Raises:
        InputError: there is no text or no chat template, the template rejects the messages, or answers are joined to
            the text by the tokenizer or begin with the same token.
    """
    written, names = _written(tokenizer, text), tuple(answers)
    (tokens, offsets), *behind = encode(tokenizer, [written, *(_followed(written, name) for name in names)])
    if not tokens:
        raise InputError("This text has no tokens; give one that is not empty.")
    ids = [_first_token(tokens, one.tokens, name) for one, name in zip(behind, names, strict=True)]
    if len(set(ids)) < len(ids):
        raise InputError(
            f"The answers {', '.join(map(repr, names))} do not all begin with tokens of their own, by which they are "
            "scored; choose others."
        )
    bos = (bos_id(tokenizer),) if prepend_bos else ()
    bos = () if tuple(tokens[:1]) == bos else bos
    return Prompt(
        tokens=(*bos, *tokens), string=written.string, demonstrations=(), query_start=0,
        query_text=tuple(range(len(bos), len(bos) + len(tokens))), target=len(bos) + len(tokens) - 1,
        label_words=names, label_ids=tuple(ids), class_names=names, offsets=(*((0, 0) for _ in bos), *offsets),
        prepend_bos=prepend_bos, task="conversation" if not isinstance(text, str) else "text",
        tokenizer_digest=tokenizer_digest(tokenizer),
    )  # fmt: skip


def _written(tokenizer: Any, text: str | Sequence[Mapping[str, str]]) -> Written:
    if isinstance(text, str):
        return Written(tokenizer).text(text)
    wrong = [one for one in text if not isinstance(one, Mapping) or not {"role", "content"} <= set(one)]
    if wrong or not text:
        raise InputError(
            "A conversation is a list of messages, such as [{'role': 'user', 'content': 'Hello'}]; "
            f"this one {'has none' if not text else f'holds {wrong[0]!r}'}."
        )
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("This tokenizer has no chat template; give a text, or a model that was trained to chat.")
    messages = [dict(one) for one in text]
    with retold(lambda error: f"The chat template refuses this conversation: {first_line(error)}"):
        string = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return Written(tokenizer).template(string)


def _followed(written: Written, answer: str) -> Written:
    return Written(written.tokenizer, written.string, list(written.special)).text(answer)


def _first_token(text: Sequence[int], whole: Sequence[int], answer: str) -> int:
    """The token with which an answer begins after the text."""
    if list(whole[: len(text)]) != list(text) or len(whole) <= len(text):
        raise InputError(
            f"The tokenizer joins the answer {answer!r} to the end of the text; begin the answer with a space, or end "
            "the text before one."
        )
    return int(whole[len(text)])
