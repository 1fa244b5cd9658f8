"""Word in Context: pairs of sentences that share a word, in the same sense or not (Pilehvar & Camacho-Collados 2019).

Three kinds of local files are read: the data set as its authors distribute it (`train/train.data.txt` with
`train.gold.txt`, and the same for dev), SuperGLUE's JSONL, and any JSONL, CSV, TSV or parquet with columns word,
sentence1, sentence2 and label. start1 and end1 (start2, end2) are the word's character positions in its sentence;
without them the word is searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from mechicl.corpora.corpus import TokenCorpus
from mechicl.doors import door
from mechicl.errors import InputError, check_seed, check_unicode, one_sentence
from mechicl.files.rows import READERS, Rows, is_saved, read_rows
from mechicl.files.splits import split_files
from mechicl.models.tokenizers import bos_id, check_fast, describe_bos, encode_texts

Split = Literal["train", "dev"]

_DEV_NAMES = ("dev", "val", "validation", "test")
_DEV_SHARE = 0.25
_LABELS = {
    "t": True, "true": True, "1": True, "same": True, "yes": True,
    "f": False, "false": False, "0": False, "different": False, "no": False,
}  # fmt: skip


@dataclass(frozen=True)
class SensePair:
    """Two sentences, the characters of a word in each, and whether it has the same sense in both."""

    word: str
    sentences: tuple[str, str]
    spans: tuple[tuple[int, int], tuple[int, int]]
    same: bool
    split: Split


@dataclass(frozen=True, eq=False)
class WordPairs:
    """Pairs as tokens: each sentence up to and including the word's last token, which sees nothing after it."""

    sentences: TokenCorpus
    """Two rows for each pair, one after the other."""
    pairs: tuple[SensePair, ...]
    source: str

    remedy: ClassVar = ("These word pairs were tokenized", "load them again with load_word_pairs(model.tokenizer, ...)")
    """What it is, and what to do if another tokenizer made it."""

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def tokenizer_digests(self) -> frozenset[str]:
        """The digest of the tokenizer of its sentences."""
        return self.sentences.tokenizer_digests

    def places(self, split: Split) -> list[int]:
        """Indices of the pairs of a split."""
        return [i for i, pair in enumerate(self.pairs) if pair.split == split]

    def digest(self) -> str:
        """SHA-256 of the tokens, labels and splits."""
        labels = "".join(f"{pair.split[0]}{int(pair.same)}" for pair in self.pairs)
        return sha256((self.sentences.digest() + labels).encode()).hexdigest()

    def provenance(self) -> dict[str, Any]:
        """Provenance of the pairs, as plain values."""
        counts = {split: len(self.places(split)) for split in ("train", "dev")}
        bos = {"bos": describe_bos(self.sentences.tokenizer)} if self.sentences.prepend_bos else {}
        return {
            "source": self.source, **counts, "prepend_bos": self.sentences.prepend_bos, **bos, "digest": self.digest()
        }  # fmt: skip


@door
def load_word_pairs(
    tokenizer: Any, source: str | Path | Sequence[Mapping[str, Any]], *, prepend_bos: bool, n_ctx: int, seed: int = 0
) -> WordPairs:
    """Read Word-in-Context pairs from a file, a folder with a train and a dev (val, test) file, or a list of rows.

    A single file, or a list of rows, is split into train and dev by `seed`, with all pairs of a word on one side.

    Raises:
        InputError: a file or line is invalid, a word is not in its sentence, or a sentence up to its word does not fit
            the context.
    """
    if isinstance(source, str | Path):
        name, files = str(source), _files(Path(source).expanduser())
        found = [pair for split, file in files for pair in _read(_rows(file), split)]
        single = len(files) == 1
    else:
        name, single = f"{len(source)} given rows", True
        found = list(_read(((f"row {i}", row) for i, row in enumerate(source)), "train"))
    check_seed(seed)
    if single:
        found = _divided(found, seed)
    for split in ("train", "dev"):
        if {pair.same for pair in found if pair.split == split} != {True, False}:
            raise InputError(f"{name} has no pairs of both kinds for {split}; a probe needs same and different senses.")
    return WordPairs(_tokenised(tokenizer, found, prepend_bos, n_ctx, name), tuple(found), name)


def _files(path: Path) -> list[tuple[Split, Path]]:
    if path.is_file() or is_saved(path):
        return [("train", path)]
    if not path.is_dir():
        raise InputError(f"There is no file or folder {path}; give the path of Word-in-Context pairs.")
    train, dev = _split_files(path, ("train",)), _split_files(path, _DEV_NAMES)
    if not train or not dev:
        missing = " or ".join(_DEV_NAMES) if train else "train"
        raise InputError(f"The folder {path} has no {missing} file; expected .data.txt with .gold.txt, or "
                         f"{', '.join(READERS)}.")  # fmt: skip
    return [*(("train", file) for file in train), *(("dev", file) for file in dev)]


def _split_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    for name in names:
        official = [place / f"{name}.data.txt" for place in (folder, folder / name)]
        if files := [file for file in official if file.is_file()][:1] or split_files(folder, name):
            return files
    return []


def _rows(path: Path) -> Rows:
    return _official(path) if path.name.endswith(".data.txt") else read_rows(path)


def _read(rows: Rows, split: Split) -> Iterator[SensePair]:
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise InputError(f"{where} is {shorten(row)}; expected an object with named columns.")
        columns = ("word", "sentence1", "sentence2", "label")
        missing = [column for column in columns if row.get(column) in (None, "")]
        if missing:
            raise InputError(f"{where}: no {missing[0]}; expected columns {', '.join(columns)}.")
        word, sentences = str(row["word"]), (str(row["sentence1"]), str(row["sentence2"]))
        for column, text in zip(columns, (word, *sentences), strict=False):
            check_unicode(text, f"{where}: {column}")
        label = _LABELS.get(str(row["label"]).strip().lower())
        if label is None:
            raise InputError(f"{where}: the label is {row['label']!r}; expected T or F (true, false, 1, 0).")
        spans = (_span(where, word, sentences[0], row, "1"), _span(where, word, sentences[1], row, "2"))
        yield SensePair(word, sentences, spans, label, split)


def _official(path: Path) -> Rows:
    """Lines of word, part of speech, "i-j" (the word's index in each sentence), both sentences; labels are separate."""
    gold_path = path.with_name(path.name.replace(".data.txt", ".gold.txt"))
    with one_sentence(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    with one_sentence(gold_path):
        gold = gold_path.read_text(encoding="utf-8-sig").split()
    if len(gold) != len(lines):
        raise InputError(f"{gold_path} has {len(gold)} labels for the {len(lines)} lines of {path.name}.")
    for number, (line, label) in enumerate(zip(lines, gold, strict=True), 1):
        where = f"{path}, line {number}"
        parts = line.split("\t")
        if len(parts) != 5 or not re.fullmatch(r"\d+-\d+", parts[2]):
            raise InputError(f"{where}: expected word, part of speech, positions as 2-5, and two sentences, with tabs.")
        word, _, positions, *sentences = parts
        row: dict[str, Any] = {"word": word, "label": label}
        for place, sentence, index in zip("12", sentences, positions.split("-"), strict=True):
            words = list(re.finditer(r"\S+", sentence))
            if int(index) >= len(words):
                raise InputError(f"{where}: word {index} of a sentence of {len(words)} words; count from 0.")
            start, end = words[int(index)].span()
            row |= {f"sentence{place}": sentence, f"start{place}": start, f"end{place}": end}
        yield where, row


def _span(where: str, word: str, sentence: str, row: Mapping[str, Any], place: str) -> tuple[int, int]:
    start, end = row.get(f"start{place}"), row.get(f"end{place}")
    if start not in (None, "") and end not in (None, ""):
        try:
            span = int(str(start)), int(str(end))
        except ValueError:
            span = -1, -1
        if not 0 <= span[0] < span[1] <= len(sentence):
            raise InputError(
                f"{where}: characters {start} to {end} are not in sentence{place}, which has {len(sentence)}."
            )
        return span
    match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sentence, re.IGNORECASE)
    if match is None:
        raise InputError(
            f"{where}: the word {word!r} is not in sentence{place} ({sentence[:60]!r}) in this form; give its "
            f"characters as start{place} and end{place}."
        )
    return match.span()


def _divided(pairs: list[SensePair], seed: int) -> list[SensePair]:
    """Assign words in random order to dev, until it has a quarter of the pairs."""
    words = sorted({pair.word.casefold() for pair in pairs})
    if len(words) < 2:
        raise InputError("A single file is split by target word, and this one has only one; give train and dev files.")
    order = np.random.default_rng(seed).permutation(len(words))
    dev: set[str] = set()
    for index in order[:-1].tolist():
        if dev and sum(pair.word.casefold() in dev for pair in pairs) >= _DEV_SHARE * len(pairs):
            break
        dev.add(words[index])
    return [replace(pair, split="dev" if pair.word.casefold() in dev else "train") for pair in pairs]


def _tokenised(tokenizer: Any, pairs: list[SensePair], prepend_bos: bool, n_ctx: int, source: str) -> TokenCorpus:
    check_fast(tokenizer)
    begin = [bos_id(tokenizer)] if prepend_bos else []
    cut = [
        begin + _up_to(tokenizer, sentence, span, pair.word)
        for pair in pairs
        for sentence, span in zip(pair.sentences, pair.spans, strict=True)
    ]
    longest = max(map(len, cut))
    if longest > n_ctx:
        raise InputError(f"A sentence takes {longest} tokens up to its word; the model's context is {n_ctx}.")
    tokens = pad_sequence([torch.tensor(ids) for ids in cut], batch_first=True)
    nothing, lengths = torch.full_like(tokens, -1), torch.tensor([len(ids) for ids in cut])
    return TokenCorpus(tokens, lengths, nothing, nothing, tokenizer, prepend_bos, source)


def _up_to(tokenizer: Any, sentence: str, span: tuple[int, int], word: str) -> list[int]:
    """Token ids of a sentence up to the last token that covers a character of the word."""
    encoded = encode_texts(tokenizer, [sentence], return_offsets_mapping=True)
    covering = [i for i, (start, end) in enumerate(encoded["offset_mapping"][0]) if start < span[1] and span[0] < end]
    if not covering:
        raise InputError(f"The tokenizer has no token for {word!r} in {sentence[:60]!r}.")
    return [int(token) for token in encoded["input_ids"][0][: covering[-1] + 1]]
