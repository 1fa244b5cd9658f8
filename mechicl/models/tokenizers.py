"""Tokenizers as their authors intended, and checks for models without a usable one.

A tokenizer's digest identifies the one that gave token ids their meaning, so that prompts and text never run on a model
with another.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from mechicl.errors import InputError, check_unicode, first_line, retold
from mechicl.models.adapter import Adapter

_CONTENT = "tokenizer.json"
_VOCABULARIES = (_CONTENT, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_SETTINGS = "tokenizer_config.json"
_TEKKEN = "tekken.json"
_LENT = "_bos_is_end_of_text"
"""Attribute that marks a tokenizer without BOS for which `give_tokenizer` uses the end-of-text token."""
_digests: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def clean_tokenizer(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a hub name (at a revision) or a folder, with right padding; None if there is none.

    Raises:
        InputError: the tokenizer's files in a folder cannot be read.
    """
    from transformers import AutoTokenizer

    local = isinstance(source, Path)
    if isinstance(source, Path) and not _may_have_tokenizer(source):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source),
            revision=revision or "main",
            local_files_only=local,
            trust_remote_code=trust_remote_code,
            padding_side="right",
        )
    except Exception as error:
        if not isinstance(source, Path):
            raise
        if not _files(source):
            return None
        raise InputError(f"The tokenizer in {source} cannot be read ({first_line(error)}); save it again.") from error
    return None if _is_empty(tokenizer) else with_padding(tokenizer)


def with_padding(tokenizer: Any) -> Any:
    """The tokenizer, with its end-of-text token as padding token if it has none."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _files(folder: Path) -> list[str]:
    """The vocabularies in a folder."""
    return [name for name in _VOCABULARIES if (folder / name).is_file()]


def _may_have_tokenizer(folder: Path) -> bool:
    """Whether a folder has a vocabulary, or settings that need none, as for a byte tokenizer."""
    return bool(_files(folder)) or ((folder / _SETTINGS).is_file() and not (folder / _TEKKEN).is_file())


def _is_empty(tokenizer: Any) -> bool:
    """Whether a vocabulary has only special tokens, as transformers silently returns for a folder with a tokenizer's
    settings but no vocabulary."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return len(tokenizer) <= len(special.union(tokenizer.all_special_tokens))


def give_tokenizer(model: Any, tokenizer: Any) -> None:
    """Put this same tokenizer object on the model.

    `HookedTransformer.set_tokenizer` would load it again with `add_bos_token=True`:
    `model.tokenizer("great")` would then begin with a token that `tokenizer("great")` does not have, and
    every position computed with the one would be off by one in the other. Here both are the same object;
    `model.to_tokens(text, prepend_bos=...)` still works, because TransformerLens asks
    `cfg.tokenizer_prepends_bos` what the tokenizer does by itself.

    A tokenizer without BOS gets its end-of-text token as BOS, as in TransformerLens; `describe_bos` reports this.
    """
    model.tokenizer = tokenizer
    if tokenizer is not None:
        if tokenizer.bos_token is None and tokenizer.eos_token is not None:
            tokenizer.bos_token = tokenizer.eos_token
            setattr(tokenizer, _LENT, True)
        model.cfg.tokenizer_prepends_bos = len(tokenizer.encode("")) > 0


def encode_texts(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
    """Token ids (and what `options` request) of texts, without special tokens: if a text spells the name of one, it is
    treated as text. All tokenization in mechicl goes through this function.

    Args:
        options: Additional options of the tokenizer, such as `return_offsets_mapping=True`.

    Raises:
        InputError: there is no tokenizer, a text has a lone surrogate, or the tokenizer cannot encode a text.
    """
    check_tokenizer(tokenizer)
    for text in texts:
        check_unicode(text, f"The text {shorten(text)}")
    remedy = "save it again, or use another"
    with retold(lambda error: f"This tokenizer cannot encode the texts ({first_line(error)}); {remedy}."):
        return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False, **options)


_MOSTLY_SPELLED = 0.5
"""Share of letters that are single tokens in a language that a tokenizer does not know; for English in an English
tokenizer it is below a tenth."""


def warn_if_spelled(pieces: Iterable[str], source: str, language: str, remedy: str, *, stacklevel: int = 3) -> None:
    """Warn if most Latin letters are single tokens, which means that the model was not trained on this language.

    Args:
        pieces: the text of each token.
        stacklevel: number of frames up to the user's code, for `warnings.warn`.
    """
    letters = [sum(c.isascii() and c.isalpha() for c in piece) for piece in pieces]
    share = letters.count(1) / max(sum(letters), 1)
    if share > _MOSTLY_SPELLED:
        warnings.warn(
            f"The tokenizer spells {share:.0%} of the letters of {source!r} one by one, so the model hardly knows "
            f"{language} and its numbers say little; {remedy}.",
            stacklevel=stacklevel,
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Raise InputError for None (`model.tokenizer` of a model without one), and for anything but a tokenizer."""
    if tokenizer is None:
        raise InputError(
            "The model has no tokenizer (model.tokenizer is None); copy tokenizer.json to its folder and load it again."
        )
    if not callable(tokenizer) or not hasattr(tokenizer, "bos_token_id"):
        raise InputError(f"Expected a tokenizer, got {type(tokenizer).__name__}; pass model.tokenizer.")


def check_fast(tokenizer: Any) -> None:
    """Raise InputError unless the tokenizer is a fast one, which gives the characters that each token covers."""
    check_tokenizer(tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which cannot say which characters a token covers; load a "
            "fast one, with a tokenizer.json."
        )


def bos_id(tokenizer: Any) -> int:
    """Id of the BOS token; InputError if there is none."""
    check_tokenizer(tokenizer)
    if tokenizer.bos_token_id is None:
        raise InputError("This tokenizer has no BOS token; pass prepend_bos=False.")
    return int(tokenizer.bos_token_id)


def describe_bos(tokenizer: Any) -> str:
    """The BOS token for provenance: its text, and whether `give_tokenizer` substituted the end-of-text token."""
    note = " (the end-of-text token: this tokenizer names no BOS)" if getattr(tokenizer, _LENT, False) else ""
    return f"{tokenizer.bos_token}{note}"


def tokenizer_of(model: Any, source: str) -> Any:
    """The tokenizer of a model that was loaded from `source`; without one, an InputError that names the folder."""
    if model.tokenizer is not None:
        return model.tokenizer
    if (Path(source).expanduser() / _TEKKEN).is_file():
        raise InputError(
            f"The model {source} has its tokenizer only as {_TEKKEN}, which mechicl does not read; copy {_CONTENT} "
            "there, from the model's files for transformers."
        )
    remedy = f"copy {_CONTENT} there" if Path(source).expanduser().is_dir() else "give a folder that holds both"
    raise InputError(f"The model {source} has no tokenizer; {remedy}.")


class Tokenized(Protocol):
    """Input that carries the digests of the tokenizers that made it."""

    @property
    def tokenizer_digests(self) -> frozenset[str]:
        """The digest of every part; a part that was made by hand has none."""

    remedy: ClassVar[tuple[str, str]]
    """What it is, and what to do if another tokenizer made it, as parts of a sentence."""


def tokenizer_digest(tokenizer: Any) -> str:
    """Shortened SHA-256 of how a tokenizer splits text and numbers its tokens; empty for None and for unknown kinds.

    For a fast tokenizer it covers added tokens, normalizer, pre-tokenizer and model; for a slow one, the vocabulary.
    The source path or name, truncation and padding, decoding, and the choice of BOS, end and padding tokens do not
    count, because prompts contain the resulting ids. It is cached per tokenizer until tokens are added.
    """
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        return ""
    known = _digests.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if hasattr(backend, "to_str"):
            content = _dividing(backend.to_str())
        else:
            content = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
        digest = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:16]
        known = _digests[tokenizer] = (len(tokenizer), digest)
    return known[1]


def _dividing(text: str) -> str:
    """A fast tokenizer's JSON without truncation, padding, post-processor and decoder.

    These are cut from the text, whose parts have a fixed order, because parsing a large vocabulary takes a second or
    more. Quotes inside strings are escaped, so a quoted name with a colon is a key.
    """
    start = text.find('"added_tokens":')
    stop = text.find('"post_processor":', start)
    model = text.find('"model":{', stop)
    return text if min(start, stop, model) < 0 else text[start:stop] + text[model:]


def check_same_tokenizer(net: Adapter, material: Tokenized) -> None:
    """Raise InputError for input made with a tokenizer other than the model's.

    Input made by hand, and a model without a tokenizer, pass.
    """
    found, own = material.tokenizer_digests - {""}, tokenizer_digest(net.tokenizer)
    if found and own and found != {own}:
        what, how = material.remedy
        other = ", ".join(sorted(found - {own}))
        raise InputError(
            f"{what} with another tokenizer than that of {net.name} (digest {other} instead of {own}); {how}."
        )


def has_token(tokenizer: Any, token: int) -> bool:
    """Whether there is a tokenizer that knows the id; embeddings are often padded beyond the vocabulary."""
    try:
        return tokenizer is not None and tokenizer.convert_ids_to_tokens(token) is not None
    except (IndexError, KeyError, OverflowError):
        return False


def token_text(tokenizer: Any, token: int) -> str:
    """A token as text; its id in brackets, such as [1850], if there is no tokenizer or it has no such token."""
    return str(tokenizer.decode([token])) if has_token(tokenizer, token) else f"[{token}]"


def visible(text: str) -> str:
    """A token on one line: spaces as symbols, invisible characters as code points."""
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥"}
    return "".join(signs.get(one, one if one.isprintable() else f"U+{ord(one):04X}") for one in text)
