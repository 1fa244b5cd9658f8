"""Folders without a tokenizer, with half of one, or with one that names no BOS: a sentence, or a right answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mechicl.cli import main
from mechicl.corpora import load_corpus, load_word_pairs, word_spans
from mechicl.errors import InputError
from mechicl.models import load_model
from mechicl.studies import load_result
from mechicl.tasks import Task
from tests import tiny

WORDS = {"negative": " Negative", "positive": " Positive"}
ROWS = [{"text": f"a good film {i}", "label": name} for i in range(4) for name in WORDS]
TEXTS = [f"The players were walking home {i}, and they went on." for i in range(12)]
PAIRS = [
    {"word": word, "sentence1": f"a {word}", "sentence2": f"the good {word}", "label": label}
    for word in ("film", "dog", "day", "cup") for label in ("T", "F")
]  # fmt: skip
SPECIAL = ("bos_token", "eos_token", "pad_token")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model without its tokenizer, and beside it material for all studies."""
    tiny.huggingface("gpt2").save_pretrained(tmp_path / "model")
    for name, content in (("text", [{"text": text} for text in TEXTS]), ("pairs", PAIRS), ("rows", ROWS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    form = {"template": "Review: {text}\nSentiment:{label}", "label_words": WORDS, "data": "rows.jsonl"}
    (tmp_path / "task.json").write_text(json.dumps(form))
    return tmp_path / "model"


def give(folder: Path, **settings: Any) -> None:
    """Save a tokenizer in the folder, with these settings in the place of its own; None takes one away."""
    tiny.tokenizer().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    merged = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({name: value for name, value in merged.items() if value is not None}))


def task() -> Task:
    return Task("films", "Review: {text}\nSentiment:{label}", WORDS, ROWS)


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def mechicl(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`mechicl run STUDY` on the folder: exit code, and what was said beside the estimate."""

    def call(study: str, *more: str) -> tuple[int, str]:
        on = {
            "isolation": ["--task", f"{folder.parent}/task.json", "--samples", "2", "--seeds", "1", "--n-layers", "1"],
            "wic": ["--data", f"{folder.parent}/pairs.jsonl"],
            "neurons": [],
        }.get(study, ["--text", f"{folder.parent}/text.jsonl", "--tokens", "60", "--length", "20"])
        out = ["--model", str(folder), "--out", str(folder.parent / "out"), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["mechicl", "run", study, *out, *on, *more])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("mechicl: ", "Trace"))]
        return code, "\n".join(line for line in said if "Estimated memory: " not in line)

    return call


def refused(mechicl: Command, folder: Path, study: str, sentence: str, *more: str) -> None:
    assert mechicl(study, *more) == (2, f"mechicl: {sentence}")
    assert not (folder.parent / "out").exists(), "nothing half-written"


# ---- no tokenizer


@pytest.mark.parametrize("study", ["isolation", "norms", "wic", "logit-lens"])
def test_a_folder_without_a_tokenizer_is_named(mechicl: Command, folder: Path, study: str) -> None:
    refused(mechicl, folder, study, f"The model {folder} has no tokenizer; copy tokenizer.json there.")


def test_what_needs_no_tokenizer_runs_without_one(mechicl: Command, folder: Path) -> None:
    assert mechicl("neurons")[0] == 0
    assert load_model(folder).tokenizer is None


def test_in_python_the_model_says_that_it_has_none() -> None:
    for door in (
        lambda: task().prompts(None),
        lambda: load_corpus(None, TEXTS, prepend_bos=False),
        lambda: load_word_pairs(None, PAIRS, prepend_bos=False, n_ctx=64),
        lambda: word_spans(None, "a film"),
    ):
        with pytest.raises(InputError, match=r"The model has no tokenizer \(model\.tokenizer is None\); copy"):
            door()
    for thing in (tiny.model("gpt2"), "gpt2"):
        with pytest.raises(
            InputError, match=r"Expected a tokenizer, got (HookedTransformer|str); pass model\.tokenizer"
        ):
            load_corpus(thing, TEXTS, prepend_bos=False)


@pytest.mark.parametrize("beside", [(), ("tokenizer_config.json",)])
def test_a_format_that_is_not_read_is_named(mechicl: Command, folder: Path, beside: tuple[str, ...]) -> None:
    (folder / "tekken.json").write_text("{}")
    for name in beside:
        (folder / name).write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    sentence = (
        f"The model {folder} has its tokenizer only as tekken.json, which mechicl does not read; copy tokenizer.json there, from "
        "the model's files for transformers."
    )
    refused(mechicl, folder, "isolation", sentence)
    give(folder)
    assert mechicl("isolation")[0] == 0


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "GPT2Tokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_settings_without_a_vocabulary_are_no_tokenizer(folder: Path, kind: str) -> None:
    """transformers makes a tokenizer of the special tokens alone, in which every text is empty or unknown."""
    from transformers import AutoTokenizer

    give(folder, tokenizer_class=kind)
    assert load_model(folder).tokenizer is not None
    (folder / "tokenizer.json").unlink()
    if kind == "Qwen2Tokenizer":
        assert AutoTokenizer.from_pretrained(folder)("Review: good")["input_ids"] == []
    assert load_model(folder).tokenizer is None
    if kind == "LlamaTokenizer":  # which has its vocabulary in another file
        (folder / "vocab.json").write_text(json.dumps(tiny.tokenizer().get_vocab()))
        assert load_model(folder).tokenizer is None


@pytest.mark.parametrize("damage", ["vocabulary without merges", "cut off", "another JSON"])
def test_half_a_tokenizer_is_refused(folder: Path, damage: str) -> None:
    give(folder, tokenizer_class="GPT2Tokenizer")
    content = (folder / "tokenizer.json").read_text()
    if damage == "vocabulary without merges":
        (folder / "vocab.json").write_text(json.dumps(tiny.tokenizer().get_vocab()))
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "tokenizer.json").write_text(content[:900] if damage == "cut off" else "[]")
    with pytest.raises(InputError, match=r"The tokenizer in .* cannot be read \(.*\); save it again") as refusal:
        load_model(folder)
    assert "\n" not in str(refusal.value)


# ---- tokenizers that cannot do all


def test_a_slow_tokenizer_reads_text_and_makes_no_prompts(mechicl: Command, folder: Path) -> None:
    """ByT5's knows no characters of tokens, and needs no vocabulary."""
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    sentence = (
        "ByT5Tokenizer is a slow tokenizer, which cannot say which characters a token covers; load a fast one, with a "
        "tokenizer.json."
    )
    refused(mechicl, folder, "isolation", sentence)
    refused(mechicl, folder, "wic", sentence)
    assert mechicl("norms", "--no-prepend-bos") == (0, "")


def test_a_tokenizer_that_cannot_encode_is_one_sentence(folder: Path) -> None:
    """Rust raises a plain Exception where a byte has no token and the unknown token is not in the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"film": 0}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(folder)
    broken = PreTrainedTokenizerFast.from_pretrained(folder)
    assert load_corpus(broken, ["film film film"], prepend_bos=False, n_ctx=2).n_tokens == 2
    for door in (lambda: load_corpus(broken, TEXTS, prepend_bos=False), lambda: task().prompts(broken)):
        with pytest.raises(
            InputError, match=r"This tokenizer cannot encode the texts \(.*\); save it again"
        ) as refusal:
            door()
        assert "\n" not in str(refusal.value)


# ---- BOS


def test_a_tokenizer_without_bos_lends_its_end_of_text_and_says_so(mechicl: Command, folder: Path) -> None:
    """As TransformerLens does; a tokenizer that names a BOS is not mistaken for one that names none."""
    note = "<|endoftext|> (the end-of-text token: this tokenizer names no BOS)"
    for named, said in (("<|endoftext|>", "<|endoftext|>"), (None, note)):
        give(folder, bos_token=named)
        model = load_model(folder)
        assert model.to_tokens("good", prepend_bos=True)[0, 0] == model.tokenizer.eos_token_id
        prompts = task().prompts(model.tokenizer, prepend_bos=True, samples=2)
        pairs = load_word_pairs(model.tokenizer, PAIRS, prepend_bos=True, n_ctx=64)
        for material in (prompts, pairs, load_corpus(model.tokenizer, TEXTS, prepend_bos=True, n_ctx=20)):
            assert material.provenance()["bos"] == said
        for material in (
            load_corpus(model.tokenizer, TEXTS, prepend_bos=False, n_ctx=20),
            task().prompts(model.tokenizer),
        ):
            assert "bos" not in material.provenance()
        assert mechicl("norms") == (0, "")
        assert load_result(folder.parent / "out", "norms").provenance["text"]["bos"] == said


@pytest.mark.parametrize("study", ["norms", "local-attention", "logit-lens", "layer-lesions", "wic"])
def test_without_any_special_token_the_choice_is_named_and_works(mechicl: Command, folder: Path, study: str) -> None:
    give(folder, **dict.fromkeys(SPECIAL))
    assert load_model(folder).tokenizer.all_special_tokens == []
    refused(mechicl, folder, study, "This tokenizer has no BOS token; pass prepend_bos=False.")
    assert mechicl(study, "--no-prepend-bos") == (0, "")
    provenance = load_result(folder.parent / "out", study).provenance
    assert not provenance["pairs" if study == "wic" else "text"]["prepend_bos"]


def test_prompts_need_no_special_token(mechicl: Command, folder: Path) -> None:
    give(folder, **dict.fromkeys(SPECIAL))
    assert mechicl("isolation")[0] == 0
    with pytest.raises(InputError, match="This tokenizer has no BOS token; pass prepend_bos=False"):
        task().prompts(load_model(folder).tokenizer, prepend_bos=True)


def test_with_and_without_bos_are_different_text(mechicl: Command, folder: Path) -> None:
    give(folder)
    digests = set()
    for flag in ("--prepend-bos", "--no-prepend-bos"):
        assert mechicl("norms", flag)[0] == 0
        digests.add(load_result(folder.parent / "out", "norms").provenance["text"]["digest"])
    assert len(digests) == 2


def test_a_vocabulary_larger_than_the_models_is_refused_where_it_matters(mechicl: Command, folder: Path) -> None:
    """Words that were added to the tokenizer and not to the model have ids that it does not embed."""
    tokenizer = tiny.tokenizer().__class__.from_pretrained(_saved(folder))
    tokenizer.add_tokens([f"players{i}" for i in range(200)] + [" walking"])
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > tiny.D_VOCAB
    code, said = mechicl("norms")
    assert code == 2
    assert "go outside the vocabulary" in said
    assert not (folder.parent / "out").exists()
    assert mechicl("isolation")[0] == 0  # its prompts have none of these words


def _saved(folder: Path) -> Path:
    give(folder)
    return folder
