"""Label words: which token scores a class, and when that question has no answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mechicl.errors import InputError
from mechicl.models.tokenizers import check_fast, encode_texts
from mechicl.prompts.template import Template

CHOOSE = 'choose other words with label_words={"class name": " Word", ...}'


def first_label_tokens(
    tokenizer: Any, template: Template, label_words: Sequence[str], class_names: Sequence[str]
) -> tuple[int, ...]:
    """The first sub-token of each label word as it is tokenized behind the template: the token that scores
    its class.

    Args:
        tokenizer: A fast tokenizer.
        label_words: One per class, usually with a leading space.
        class_names: For the messages.

    Raises:
        InputError: A word is empty or belongs to two classes; two words begin with the same token, so that
            their scores would be equal; or the tokenizer joins a word to the end of the template, so that the
            model could never answer with it after the template.
    """
    check_words(label_words, class_names)
    query = f"{template.before}a{template.between}"
    after = template.after + template.separator
    encoded = encode(tokenizer, [query, *(query + word + after for word in label_words)])
    prefix = encoded["input_ids"][0]
    first = []
    for word, tokens in zip(label_words, encoded["input_ids"][1:], strict=True):
        if tokens[: len(prefix)] != prefix or len(tokens) == len(prefix):
            raise InputError(
                f"This tokenizer joins the end of the template {template.between!r} and the label word "
                f"{word!r} into one token, so the model cannot answer with the word; begin the word with a "
                f"space, or {CHOOSE}."
            )
        first.append(int(tokens[len(prefix)]))
    clashes = shared_first_tokens(first, label_words, class_names)
    if clashes:
        raise InputError(
            f"The label words {clashes} begin with the same token of this tokenizer "
            f"({tokenizer.convert_ids_to_tokens(_repeated(first))!r}), and classes are scored by their first "
            f"token; {CHOOSE}."
        )
    return tuple(first)


def without_lone_spaces(tokenizer: Any, template: Template, label_words: Sequence[str]) -> tuple[str, ...]:
    """The label words, all without their leading space where that space would be the first token of several.

    Small vocabularies split " Negative" into " " and "N...": behind the template every such word begins
    alike, and no first token tells the classes apart. Written right behind the template, the words do.
    """
    query = f"{template.before}a{template.between}"
    encoded = encode(tokenizer, [query, *(query + word for word in label_words)])
    behind = len(encoded["input_ids"][0])
    first = [
        (tokens[behind], (query + word)[slice(*offsets[behind])])
        for word, tokens, offsets in zip(
            label_words, encoded["input_ids"][1:], encoded["offset_mapping"][1:], strict=True
        )
        if len(tokens) > behind
    ]
    lone = [token for token, covered in first if not covered.strip()]
    if len(lone) == len(set(lone)):
        return tuple(label_words)
    return tuple(word.lstrip(" ") for word in label_words)


def check_words(label_words: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise InputError unless every class has a label word of its own that is more than a space."""
    owner: dict[str, str] = {}
    for word, name in zip(label_words, class_names, strict=True):
        if not isinstance(word, str) or not word.strip():
            raise InputError(f"The label word of class {name!r} is {word!r}; it must be a word, such as ' Positive'.")
        if word in owner:
            raise InputError(
                f"The label word {word!r} is given to two classes, {owner[word]!r} and {name!r}; {CHOOSE}."
            )
        owner[word] = name


def shared_first_tokens(first: Sequence[int], label_words: Sequence[str], class_names: Sequence[str]) -> str:
    """The words whose first token another word has too, in words; empty where there are none."""
    token = _repeated(first)
    named = [f"{word!r} ({name})" for t, word, name in zip(first, label_words, class_names, strict=True) if t == token]
    return " and ".join(named)


def _repeated(first: Sequence[int]) -> int | None:
    return next((token for token in first if list(first).count(token) > 1), None)


def encode(tokenizer: Any, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Token ids and character offsets of whole strings, nothing added; a special token's name in a text is
    plain text.

    Raises:
        InputError: There is no tokenizer, it is a slow one, which does not know which characters a token came from,
            or it cannot encode a text.
    """
    check_fast(tokenizer)
    if not texts:
        return {"input_ids": [], "offset_mapping": []}
    encoded = encode_texts(
        tokenizer,
        texts,
        return_offsets_mapping=True,
        return_attention_mask=False,
        padding=False,
        truncation=False,
        split_special_tokens=True,
    )
    return {"input_ids": encoded["input_ids"], "offset_mapping": encoded["offset_mapping"]}
