"""Sequences of running text: no token is invented, silently lost, or given to the wrong word."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mechicl.corpora import load_corpus, word_spans
from mechicl.corpora.words import word_numbers
from mechicl.errors import InputError

TEXTS = [
    "the cat sat on the mat, and it was warm",
    "  unbelievable  things\n\nhappen",
    "",
    "na\u00efve \U0001f642 emoji and more",
    "one two three four five six seven",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Bytes, and two merged words; BOS is a token of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<bos>", *alphabet, "th", "the", "\u0120th", "\u0120the"]
    core = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("t", "h"), ("th", "e"), ("\u0120", "th"), ("\u0120th", "e")],
        )
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>")


# --- packing


def test_packed_sequences_are_the_shuffled_documents_one_after_another(tokenizer: Any) -> None:
    corpus = load_corpus(tokenizer, TEXTS, n_ctx=16, prepend_bos=True, seed=3)
    assert (corpus.tokens[:, 0] == tokenizer.bos_token_id).all()
    assert (corpus.lengths == 16).all()
    texts = [TEXTS[i] for i in np.random.default_rng(3).permutation(len(TEXTS)) if TEXTS[i]]
    own = corpus.documents >= 0
    joined = "".join(texts)
    assert joined.startswith(tokenizer.decode(corpus.tokens[own].tolist()))
    for number, text in enumerate(texts):
        part = tokenizer.decode(corpus.tokens[corpus.documents == number].tolist())
        assert text.startswith(part)
    inside = corpus.tokens[:, 1:][corpus.documents[:, 1:] < 0]
    assert (inside == tokenizer.bos_token_id).all()  # only BOS stands between documents
    assert (corpus.documents[:, 1] >= 0).all()  # never two BOS at the beginning


def test_text_of_a_single_document_is_told_before_it_is_used(tokenizer: Any, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(UserWarning, match=r"The 38 tokens taken of .* are of one document.*packing='documents'"):
        corpus = load_corpus(tokenizer, ["ab" * 50, "ba" * 50], n_ctx=20, prepend_bos=True, tokens=30)
    assert corpus.provenance()["documents_used"] == 1
    load_corpus(tokenizer, ["ab" * 50, "ba" * 50], n_ctx=20, prepend_bos=True, tokens=110)
    load_corpus(tokenizer, ["ab" * 50, "ba" * 50], n_ctx=20, prepend_bos=True, tokens=30, packing="documents")
    assert not recwarn.list, "several documents, by more text or by cutting each"


def test_the_seed_decides_the_order_and_the_digest_tells(tokenizer: Any) -> None:
    first, again, other = (load_corpus(tokenizer, TEXTS, n_ctx=16, prepend_bos=True, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert first.digest() == again.digest() != other.digest()


def test_documents_are_cut_and_padded_as_the_authors_do(tokenizer: Any) -> None:
    corpus = load_corpus(tokenizer, TEXTS, n_ctx=20, packing="documents", documents=3, prepend_bos=True)
    kept = [text for text in TEXTS if text][:3]
    assert len(corpus) == 3
    for row, text in enumerate(kept):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][:20]
        assert corpus.tokens[row, : len(ids)].tolist() == ids
        assert corpus.lengths[row] == len(ids)
        assert text.startswith(corpus.text(row))
    without = load_corpus(tokenizer, TEXTS, n_ctx=20, packing="documents", prepend_bos=False)
    assert torch.equal(without.tokens[:3, :19], corpus.tokens[:, 1:])


def test_documents_are_read_up_to_so_many_characters(tokenizer: Any) -> None:
    texts = ["a good film and so on", "fine", " " * 9 + "late"]
    corpus = load_corpus(tokenizer, texts, prepend_bos=True, n_ctx=30, packing="documents", characters=6)
    cut = load_corpus(tokenizer, [text[:6] for text in texts[:2]], prepend_bos=True, n_ctx=30, packing="documents")
    assert torch.equal(corpus.tokens, cut.tokens), "of the third nothing is left"
    assert corpus.provenance()["characters"] == 6
    with pytest.raises(InputError, match="characters is 0"):
        load_corpus(tokenizer, texts, prepend_bos=True, characters=0)


def test_batches_hold_every_sequence_once_longest_first(tokenizer: Any) -> None:
    corpus = load_corpus(tokenizer, TEXTS, n_ctx=200, packing="documents", prepend_bos=True)
    seen = []
    for indices, batch in corpus.batches(3):
        assert batch.tokens.shape[1] == batch.lengths.max() == batch.lengths[0]
        assert torch.equal(batch.tokens, corpus.tokens[list(indices), : batch.tokens.shape[1]])
        assert torch.equal(batch.real.sum(1), batch.lengths)
        seen += indices
    assert sorted(seen) == list(range(len(corpus)))
    assert len(corpus[1:3]) == 2
    assert corpus[1:3].digest() != corpus.digest()


# --- budgets


def test_a_budget_takes_whole_sequences_until_it_is_reached(tokenizer: Any) -> None:
    full = load_corpus(tokenizer, TEXTS, n_ctx=12, prepend_bos=True)
    some = load_corpus(tokenizer, TEXTS, n_ctx=12, prepend_bos=True, tokens=25)
    assert 25 <= some.n_tokens < 25 + 11
    assert torch.equal(some.tokens, full.tokens[: len(some)])
    provenance = some.provenance()
    assert provenance["tokens"] == some.n_tokens
    assert provenance["tokens_asked"] == 25
    assert json.loads(json.dumps(provenance)) == provenance


def test_too_little_text_is_said_never_silently_less(tokenizer: Any) -> None:
    full = load_corpus(tokenizer, TEXTS, n_ctx=12, prepend_bos=True)
    with pytest.raises(InputError, match=f"gives {full.n_tokens} tokens .* fewer than the 5000 asked for"):
        load_corpus(tokenizer, TEXTS, n_ctx=12, prepend_bos=True, tokens=5000)
    with pytest.raises(InputError, match="too little text for one sequence of 512"):
        load_corpus(tokenizer, TEXTS, n_ctx=512, prepend_bos=True)
    with pytest.raises(InputError, match="holds no text"):
        load_corpus(tokenizer, ["", " "], packing="documents", prepend_bos=True)
    with pytest.raises(InputError, match="holds 4 documents, fewer than the 9"):
        load_corpus(tokenizer, TEXTS, packing="documents", documents=9, prepend_bos=True)
    with pytest.raises(InputError, match="n_ctx is 2"):
        load_corpus(tokenizer, TEXTS, n_ctx=2, prepend_bos=True)


def test_bos_cannot_be_prepended_where_there_is_none(tokenizer: Any) -> None:
    nameless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(InputError, match="no BOS token"):
        load_corpus(nameless, TEXTS, n_ctx=16, prepend_bos=True)
    corpus = load_corpus(nameless, TEXTS, n_ctx=16, prepend_bos=False)
    assert (corpus.documents >= 0).all()


# --- sources


def test_all_kinds_of_files_and_folders_hold_the_same_text(tokenizer: Any, tmp_path: Path) -> None:
    expected = load_corpus(tokenizer, TEXTS, n_ctx=16, prepend_bos=True).digest()
    files = {kind: tmp_path / f"text.{kind}" for kind in ("jsonl", "parquet", "csv", "txt")}
    files["jsonl"].write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in TEXTS))
    pd.DataFrame({"text": TEXTS}).to_parquet(files["parquet"])
    pd.DataFrame({"text": TEXTS}).to_csv(files["csv"], index=False)
    files["txt"].write_text("<|endoftext|>".join(TEXTS))
    for path in files.values():
        assert load_corpus(tokenizer, path, n_ctx=16, prepend_bos=True).digest() == expected, path
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("<|endoftext|>".join(TEXTS[:2]))
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[2:]))
    assert load_corpus(tokenizer, str(folder), n_ctx=16, prepend_bos=True).digest() == expected


def test_what_cannot_be_read_is_one_sentence(tokenizer: Any, tmp_path: Path) -> None:
    def failure(source: Any, **options: Any) -> str:
        with pytest.raises(InputError) as caught:
            load_corpus(tokenizer, source, prepend_bos=True, **{"tokens": 10, "n_ctx": 8, **options})
        return str(caught.value)

    assert "no file or folder" in failure(tmp_path / "absent")
    assert "no file or folder" in failure("absent.jsonl")
    assert "has no text" in failure(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"content": "x"}\n')
    assert "line 1: no text in column 'text' (columns: content)" in failure(rows)
    rows.write_text('{"text": "x"}\n{"text"')
    assert "line 2 is not JSON" in failure(rows)
    (tmp_path / "empty.txt").write_text("")
    assert "too little text" in failure(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "not UTF-8" in failure(tmp_path / "latin.txt")
    (tmp_path / "fake.parquet").write_bytes(b"no parquet")
    assert "not a parquet file" in failure(tmp_path / "fake.parquet")
    assert "how many tokens" in failure("tiny-icl", tokens=None)


def test_a_text_in_place_of_its_name_is_said(tokenizer: Any) -> None:
    for text in ("A paragraph. " * 40, "It rains."):
        with pytest.raises(InputError, match=r"give it in a list: \[text\]|File name too long"):
            load_corpus(tokenizer, text, prepend_bos=True)


def test_the_hub_is_read_as_a_shuffled_stream(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def load_dataset(name: str, **options: Any) -> Any:
        asked.update(options, name=name)
        return datasets.Dataset.from_dict({"content": TEXTS * 20}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options: dict[str, Any] = {"n_ctx": 16, "prepend_bos": True, "tokens": 200, "column": "content"}
    corpus = load_corpus(tokenizer, "some/pile", seed=1, **options)
    assert asked == {"name": "some/pile", "split": "train", "streaming": True}
    assert corpus.digest() != load_corpus(tokenizer, "some/pile", seed=2, **options).digest()
    with pytest.raises(InputError, match=r"no text in column 'text' \(columns: content"):
        load_corpus(tokenizer, "some/pile", **{**options, "column": "text"})

    def unreachable(name: str, **options: Any) -> Any:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match=r"could not be read from the Hugging Face hub \(no route to host\)"):
        load_corpus(tokenizer, "some/pile", **options)


def test_the_shipped_language_never_runs_out(tokenizer: Any) -> None:
    options: dict[str, Any] = {"n_ctx": 64, "prepend_bos": True, "tokens": 20_000}
    corpus = load_corpus(tokenizer, "tiny-icl", seed=1, **options)
    assert corpus.n_tokens >= 20_000
    assert corpus.digest() == load_corpus(tokenizer, "tiny-icl", seed=1, **options).digest()
    assert corpus.digest() != load_corpus(tokenizer, "tiny-icl", seed=2, **options).digest()


# --- words


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_word_spans_decode_to_the_words(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    spans = word_spans(tokenizer, text)
    assert [span.word for span in spans] == [word.strip(".,") for word in text.split()]
    for span in spans:
        assert tokenizer.decode(ids[span.start : span.stop]).strip() == span.word


def test_a_word_is_letters_and_apostrophes_inside(tokenizer: Any) -> None:
    text = "“Don't go,” said Mr. Smith's well-known 'éclair' in 1990; हिन्दी x2"
    words = ["Don't", "go", "said", "Mr", "Smith's", "well", "known", "éclair", "in", "हिन्दी", "x"]
    assert [span.word for span in word_spans(tokenizer, text)] == words


def test_words_that_share_a_token_are_left_out() -> None:
    of_b_and_c = (2, 5)
    assert word_numbers("aab cd ef", [(0, 2), of_b_and_c, (5, 6), (6, 9)]).tolist() == [-1, -1, -1, 2]
    assert word_numbers("a", [(0, 0), (0, 1)]).tolist() == [-1, 0]
    assert word_numbers("   ", [(0, 3)]).tolist() == [-1]


def test_words_in_sequences_are_those_of_the_text_but_for_cut_ones(tokenizer: Any) -> None:
    for packing in ("packed", "documents"):
        corpus = load_corpus(tokenizer, TEXTS, n_ctx=24, prepend_bos=True, packing=packing)
        known = {word.strip(".,") for text in TEXTS for word in text.split()}
        found = [span for row in range(len(corpus)) for span in corpus.word_spans(row)]
        assert {span.word for span in found} <= known
        assert len(found) > 10
        assert all(span.start > 0 for span in found)  # BOS is no word
        whole = corpus.words[corpus.words >= 0].unique()
        assert len(whole) == len(found)
