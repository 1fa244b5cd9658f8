"""Label words: which tokens score a class, and errors if none can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mechicl.errors import InputError
from mechicl.prompts.template import Template
from mechicl.prompts.written import Encoded, Written, encode

Score = Literal["first", "sequence"]
"""What scores a class: the first token of its label word (the paper), or the label word's tokens together."""
CHOOSE = 'choose other words with label_words={"class name": " Word", ...}'
_REMEDY = f"{CHOOSE}, or score whole words with score='sequence' (--score sequence)"


def scoring_tokens(
    tokenizer: Any, template: Template, label_words: Sequence[str], class_names: Sequence[str], score: Score = "first"
) -> tuple[tuple[int, ...], ...]:
    """The tokens of each label word, as tokenized after the template, which score its class.

    Args:
        tokenizer: A fast tokenizer.
        label_words: One per class, usually with a leading space.
        class_names: For the messages.
        score: With "first", the first tokens must distinguish the classes.

    Raises:
        InputError: A word is empty or belongs to two classes; the tokenizer joins a word to the end of the template,
            so that the model could never answer with it; two words have the same tokens, or one begins with those of
            another; or with `score="first"`, a first token is no more than a space or part of a character.
    """
    check_words(label_words, class_names)
    behind, encoded = _behind(tokenizer, template, label_words, template.after + template.separator)
    tokens = []
    for word, one in zip(label_words, encoded, strict=True):
        if one is None:
            raise InputError(
                f"This tokenizer joins the end of the template {template.between!r} and the label word "
                f"{word!r} into one token, so the model cannot answer with the word; begin the word with a "
                f"space, or {CHOOSE}."
            )
        if score == "first" and (reason := _says_nothing(one, word, behind)):
            raise InputError(
                f"The label word {word!r} begins with a token that is no more than {reason}, and classes are scored "
                f"by their first token; {_REMEDY}."
            )
        tokens.append(tuple(t for t, (start, _) in zip(*one, strict=True) if start < behind + len(word)))
    keys = [one[:1] if score == "first" else one for one in tokens]
    if clash := _same_beginning(keys, label_words, class_names):
        raise InputError(
            f"The label words {clash} begin with the same token of this tokenizer, and classes are scored by their "
            f"first token; {_REMEDY}."
            if score == "first"
            else f"The label words {clash} cannot be told apart: the tokens of one begin with those of the other; "
            f"{CHOOSE}."
        )
    return tuple(tokens)


def without_lone_spaces(tokenizer: Any, template: Template, label_words: Sequence[str]) -> tuple[str, ...]:
    """The label words, all without their leading space if that space would be the first token of one.

    Small vocabularies split " Negative" into " " and "N...", so the first token does not identify the class. Written
    right after the template, the words begin with a letter.
    """
    behind, encoded = _behind(tokenizer, template, label_words)
    pairs = zip(encoded, label_words, strict=True)
    lone = any(one is not None and _says_nothing(one, word, behind) == _SPACE for one, word in pairs)
    return tuple(word.lstrip(" ") for word in label_words) if lone else tuple(label_words)


def check_words(label_words: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise InputError unless every class has its own label word that is more than a space."""
    if len(label_words) != len(class_names):
        raise InputError(f"There are {len(label_words)} label words for {len(class_names)} classes; give one for each.")
    owner: dict[str, str] = {}
    for word, name in zip(label_words, class_names, strict=True):
        if not isinstance(word, str) or not word.strip():
            raise InputError(f"The label word of class {name!r} is {word!r}; it must be a word, such as ' Positive'.")
        if word in owner:
            raise InputError(
                f"The label word {word!r} is given to two classes, {owner[word]!r} and {name!r}; {CHOOSE}."
            )
        owner[word] = name


def _behind(
    tokenizer: Any, template: Template, label_words: Sequence[str], after: str = ""
) -> tuple[int, list[Encoded | None]]:
    """The characters of label words after the template, and their tokens when followed by `after`; None for a word that
    the tokenizer joins to the template.
    """

    def query() -> Written:
        return Written(tokenizer).template(template.before).text("a").template(template.between)

    texts = [query(), *(query().text(word).template(after) for word in label_words)]
    prefix, *whole = encode(tokenizer, texts)
    n = len(prefix.tokens)
    apart = [one.tokens[:n] == prefix.tokens and len(one.tokens) > n for one in whole]
    return len(texts[0].string), [
        Encoded(one.tokens[n:], one.offsets[n:]) if divided else None for one, divided in zip(whole, apart, strict=True)
    ]


_SPACE, _PART = "a space", "part of a character"


def _says_nothing(encoded: Encoded, word: str, behind: int) -> str:
    """Why the first token of a word is not meaningful by itself; empty if it is."""
    (start, stop), *more = encoded.offsets
    if more and more[0][0] < stop:  # two tokens form one character
        return _PART
    return "" if word[max(0, start - behind) : stop - behind].strip() else _SPACE


def _same_beginning(tokens: Sequence[tuple[int, ...]], label_words: Sequence[str], class_names: Sequence[str]) -> str:
    """The words whose tokens begin with those of another, in words; empty if there are none."""
    for short in tokens:
        alike = [i for i, long in enumerate(tokens) if long[: len(short)] == short]
        if len(alike) > 1:
            return " and ".join(f"{label_words[i]!r} ({class_names[i]})" for i in alike)
    return ""
