"""Small tokenizers with the habits of the large ones, their merges written out by hand."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_level(*words: str) -> Any:
    """GPT-2's scheme: bytes, a space belongs to the word after it, each of ``words`` is one token."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in words:
        written = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
        _merge(written[0][0], pieces, merges)
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|endoftext|>")


def metaspace(*words: str) -> Any:
    """Llama's scheme: a space is a character, one precedes every string, rare characters are bytes."""
    letters = [chr(c) for c in range(33, 127)]
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges: list[tuple[str, str]] = []
    for word in words:
        _merge(word.replace(" ", "▁"), pieces, merges)
    core = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, byte_fallback=True, unk_token="<unk>"
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")


def _merge(word: str, pieces: list[str], merges: list[tuple[str, str]]) -> None:
    """Add the pieces that build a word from left to right."""
    for end in range(2, len(word) + 1):
        if word[:end] not in pieces:
            pieces.append(word[:end])
            merges.append((word[: end - 1], word[end - 1]))


def covered(prompt: Any, positions: Any) -> str:
    """The characters of tokens, each once."""
    characters = sorted({c for p in positions for c in range(*prompt.offsets[p])})
    return "".join(prompt.string[c] for c in characters)
