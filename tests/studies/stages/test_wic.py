"""Word in context: files are read, words are found, and probes find what is there and nothing else."""

import functools
import json
import sys

import numpy as np
import pytest
import torch

from mechicl.corpora import load_word_pairs
from mechicl.errors import InputError
from mechicl.studies import wic
from mechicl.studies.stages.wic import Wic
from tests import tiny

WORDS = ("bank", "bat", "spring", "seal", "bark", "match", "light", "palm", "crane", "pitch", "ring", "wave")
ROWS = [
    {"word": word, "sentence1": f"good film, {word}", "sentence2": f"{other} {word}", "label": label}
    for word in WORDS
    for other, label in (("a good", True), ("a bad", False), ("x good", True), ("x bad", False))
]
"""The sense is the same after "good" and another after "bad"."""


def load(source, **options):
    return load_word_pairs(tiny.tokenizer(), source, prepend_bos=True, n_ctx=tiny.N_CTX, **options)


@functools.cache
def result():
    return wic(tiny.model("gpt2"), load(ROWS))


def test_sentences_end_with_the_words_last_token():
    pairs = load([*ROWS, {"word": "Bank", "sentence1": "the BANK was shut", "sentence2": "bank, he said", "label": 0}])
    tokenizer, sentences = tiny.tokenizer(), pairs.sentences
    for i, pair in enumerate(pairs.pairs):
        for side in (0, 1):
            ids = sentences.tokens[2 * i + side, 1 : sentences.lengths[2 * i + side]]
            start, end = pair.spans[side]
            assert tokenizer.decode(ids) == pair.sentences[side][:end]
            assert pair.sentences[side][start:end].lower() == pair.word.lower()
    assert sentences.text(len(sentences) - 2) == "the BANK"


def test_a_word_stays_on_one_side():
    pairs = load(ROWS)
    train, dev = ({pairs.pairs[i].word for i in pairs.places(split)} for split in ("train", "dev"))
    assert not train & dev
    assert train | dev == set(WORDS)
    assert len(pairs.places("dev")) == len(ROWS) // 4
    assert load(ROWS, seed=1).places("dev") != pairs.places("dev")
    cased = load([{**row, "word": row["word"].title() if i % 2 else row["word"]} for i, row in enumerate(ROWS)])
    train, dev = ({cased.pairs[i].word.lower() for i in cased.places(split)} for split in ("train", "dev"))
    assert not train & dev, "in either case"
    assert {claim.n["words"] for claim in result().claims} == {3}, "pairs of a word are alike, so words are sampled"


def test_every_form_of_the_data_is_the_same_data(tmp_path):
    rows = {"train": ROWS[:24], "dev": ROWS[24:]}
    for split, own in rows.items():
        folder = tmp_path / "official" / split
        folder.mkdir(parents=True)
        lines = [f"{r['word']}\tN\t2-2\t{r['sentence1']}\t{r['sentence2']}\n" for r in own]
        (folder / f"{split}.data.txt").write_text("".join(lines))
        (folder / f"{split}.gold.txt").write_text("".join("T\n" if r["label"] else "F\n" for r in own))
        for name, write in (("jsonl", json.dumps), ("tsv", lambda row: "\t".join(map(str, row.values())))):
            (tmp_path / name).mkdir(exist_ok=True)
            head = "" if name == "jsonl" else "\t".join(own[0]) + "\n"
            (tmp_path / name / f"{split}.{name}").write_text(head + "".join(write(row) + "\n" for row in own))
    found = [load(tmp_path / name) for name in ("official", "jsonl", "tsv")]
    assert len({pairs.digest() for pairs in found}) == 1
    assert [len(found[0].places(split)) for split in ("train", "dev")] == [24, 24]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"word": "banker"}, "'banker' is not in sentence1"),
        ({"sentence2": "many banks"}, "not in sentence2"),  # an inflected form needs its characters
        ({"label": "maybe"}, "T or F"),
        ({"start1": 3, "end1": 99}, "characters 3 to 99"),
        ({"sentence1": ""}, "no sentence1"),
        ({"sentence1": "film " * 600 + "bank"}, "context"),
    ],
)
def test_what_is_wrong_is_said(change, sentence):
    with pytest.raises(InputError, match=sentence):
        load([ROWS[0] | change, *ROWS[1:]])


def test_characters_find_inflected_forms():
    row = ROWS[0] | {"sentence2": "many banks", "start2": 5, "end2": 10}
    assert load([row, *ROWS[1:]]).sentences.text(1) == "many banks"


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        load(tmp_path / "nothing")
    with pytest.raises(InputError, match="no train file"):
        load(tmp_path)
    (tmp_path / "train.data.txt").write_text("bank\tN\t0-7\tbank\tbank\n")
    (tmp_path / "dev.data.txt").write_text("bank\tN\t0-0\tbank\tbank\n")
    for split in ("train", "dev"):
        (tmp_path / f"{split}.gold.txt").write_text("T\n")
    with pytest.raises(InputError, match="word 7 of a sentence of 1 words"):
        load(tmp_path)
    (tmp_path / "train.gold.txt").write_text("T\nF\n")
    with pytest.raises(InputError, match="2 labels for the 1 lines"):
        load(tmp_path)
    with pytest.raises(InputError, match="both kinds"):
        load([row for row in ROWS if row["label"]])


def test_an_embedding_knows_nothing_of_what_precedes_the_word():
    accuracy = result().summary().set_index(["metric", "point"])["mean"]
    assert accuracy["probe", 0] == pytest.approx(0.5)
    assert accuracy["majority", 0] == pytest.approx(0.5)


def test_a_planted_sense_is_found_and_shuffled_labels_find_nothing():
    pairs, generator = load(ROWS * 4), np.random.default_rng(0)
    same = np.array([pair.same for pair in pairs.pairs])
    sense = generator.choice([-1.0, 1.0], size=(len(pairs), 1))
    noise = generator.normal(size=(2, len(pairs), 8)) * 0.3
    first, second = sense * np.ones(8) + noise[0], np.where(same[:, None], sense, -sense) * np.ones(8) + noise[1]
    told = Wic()._probed(first, second, pairs).groupby("probe")["correct"].mean()
    assert told["probe"] > 0.95
    assert told["cosine"] > 0.95
    assert abs(told["control"] - 0.5) < 0.25
    blind = Wic()._probed(noise[0], noise[1], pairs).groupby("probe")["correct"].mean()
    assert (abs(blind - 0.5) < 0.25).all()


def test_it_shows_itself_and_a_table_has_a_row_for_every_answer():
    table = result().table
    assert len(table) == 12 * 3 * (tiny.N_LAYERS + 1)  # dev pairs, probes, depths
    assert "shuffled labels" in " ".join(result().details())
    assert len(result().figure().data) >= 6
    assert result().provenance["pairs"]["train"] == 36


def test_depths_in_several_passes_are_the_same(monkeypatch):
    monkeypatch.setattr(sys.modules[Wic.__module__], "_READ_AT_ONCE", 1)
    again = wic(tiny.model("gpt2"), load(ROWS))
    assert (again.table["correct"].to_numpy() == result().table["correct"].to_numpy()).all()


def test_what_it_is_not_run_on():
    with pytest.raises(InputError, match="pairs of sentences"):
        wic(tiny.model("gpt2"), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not say"):
        Wic("paper")
    assert torch.is_tensor(load(ROWS).sentences.tokens)
