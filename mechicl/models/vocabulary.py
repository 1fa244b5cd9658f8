"""Which tokenizer gave token ids their meaning, so that prompts and text never run on a model with another one."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from mechicl.errors import InputError
from mechicl.models.adapter import Adapter

_known: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


class Tokenized(Protocol):
    """Material that carries the digests of the tokenizers that made it."""

    @property
    def tokenizer_digests(self) -> frozenset[str]:
        """Of every part; a part that was made by hand has none."""

    remedy: ClassVar[tuple[str, str]]
    """What it is, and what to do where another tokenizer made it, as parts of a sentence."""


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of how a tokenizer divides text and numbers its tokens, shortened; empty for None and for unknown kinds.

    Of a fast tokenizer these are its added tokens, normalizer, pre-tokenizer and model; of a slow one its vocabulary.
    The path or name from which it was loaded, truncation and padding, decoding, and which of its tokens serve as BOS,
    end or padding do not count: prompts hold the ids that these gave. Kept for each tokenizer until it has more tokens.
    """
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        return ""
    known = _known.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if hasattr(backend, "to_str"):
            content = _dividing(backend.to_str())
        else:
            content = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
        digest = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:16]
        known = _known[tokenizer] = (len(tokenizer), digest)
    return known[1]


def _dividing(text: str) -> str:
    """A fast tokenizer's JSON without truncation, padding, post-processor and decoder.

    Cut from the text, whose parts have a fixed order: parsing a large vocabulary takes a second and more. Quotes inside
    strings are escaped, so a name in quotes with a colon is a key.
    """
    start = text.find('"added_tokens":')
    stop = text.find('"post_processor":', start)
    model = text.find('"model":{', stop)
    return text if min(start, stop, model) < 0 else text[start:stop] + text[model:]


def check_same_tokenizer(net: Adapter, material: Tokenized) -> None:
    """Refuse material that another tokenizer than the model's made, by InputError.

    Material made by hand, and a model without a tokenizer, pass.
    """
    found, own = material.tokenizer_digests - {""}, tokenizer_digest(net.tokenizer)
    if found and own and found != {own}:
        what, how = material.remedy
        other = ", ".join(sorted(found - {own}))
        raise InputError(
            f"{what} with another tokenizer than that of {net.name} (digest {other} instead of {own}); {how}."
        )
