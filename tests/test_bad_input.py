"""Bad input at every door: a right answer, or one sentence; never a traceback, never half a result.

40 generated cases a door in the everyday suite, 500 with --slow, and by hand what generators do not find.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mechicl.cli import reading
from mechicl.corpora import load_corpus
from mechicl.engines.context import Context, read_context
from mechicl.errors import InputError
from mechicl.files.saved import packed
from mechicl.models import load_model
from mechicl.patches import ReweightAnchors
from mechicl.probes.tuned_lens import TunedLens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies import STUDIES, load_result
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.stages.many_lesions import ManyLesions
from mechicl.tasks import Task, load_task
from tests import tiny
from tests.contract import catalogue
from tests.contract.catalogue import TASK
from tests.random_prompts import random_prompts

CASES = settings(
    max_examples=int(os.environ.get("MECHICL_CASES", "40")), deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=8,
)
_WORDS = {"negative": " Negative", "positive": " Positive"}
_LABELS = st.sampled_from(["negative", "positive", "Positive ", "neutral", "", "0", "-1", 1, None, True, 1.5, [], {}])


def told(door: Callable[[], Any]) -> Any:
    """What a door gives, or None where it says in one sentence why not; anything else fails the test."""
    try:
        return door()
    except InputError as error:
        sentence = str(error)
        assert sentence.strip()
        assert "\n" not in sentence, sentence
        assert len(sentence) < 2000, sentence[:300]
        return None


# ---- options


@CASES
@given(st.text(max_size=12) | st.from_regex(r"[-0-9, ]{0,9}", fullmatch=True))
def test_texts_of_options(text: str) -> None:
    told(lambda: reading.integers("--seeds", text))
    told(lambda: reading.names("--task", text))
    told(lambda: reading.choices("--kept", text, "label", "template"))
    told(lambda: reading.assignments("--label-words", text))
    told(lambda: reading.per_class("--shots", text, 1))


_OPTIONS = {
    "--task": st.sampled_from(["tiny-topics-2", "sst2", "tiny-topics-2,tiny-topics-4", "no", "", "../../etc/passwd"]),
    "--samples": st.sampled_from(["2", "0", "-1", "two", "1e3", "99999999999999999999"]),
    "--seeds": st.sampled_from(["1", "1,1", "-3", "9" * 30, "1.5", "", "0x1"]),
    "--shots": st.sampled_from(["1", "0", "400", "1,2,3", "x"]),
    "--n-layers": st.sampled_from(["1", "0", "99", "1,,2", "one"]),
    "--data": st.sampled_from(["/no/such", "/dev/null", "/proc/self/mem", "", "a" * 5000]),
    "--label-words": st.sampled_from(["negative= A,positive= B", "a=b", "=", "negative= A,positive= A", ","]),
    "--out": st.sampled_from(["/proc/x", "/dev/null", "a" * 5000, ""]),
    "--batch-size": st.sampled_from(["1", "0", "none"]),
    "--protocol": st.sampled_from(["paper", "corrected", "PAPER"]),
    "--mode": st.sampled_from(["presoftmax", "none"]),
    "--too-long": st.sampled_from(["drop", "cut", "shorter"]),
    "--device": st.sampled_from(["cpu", "cuda:77", "tpu", "", "meta"]),
    "--dtype": st.sampled_from(["float32", "int8", "float", "bfloat16", "load"]),
    "--model": st.sampled_from(["tiny-icl", "no-such", "/", "", "../..", "a" * 300]),
}


@settings(CASES, max_examples=CASES.max_examples // (1 if CASES.max_examples > 100 else 4))
@given(st.fixed_dictionaries({}, optional=_OPTIONS))
def test_commands(changed: dict[str, str]) -> None:
    asked = {"--model": "tiny-icl", "--task": "tiny-topics-2", "--samples": "2", "--seeds": "1", "--n-layers": "1"}
    commanded("isolation", asked, changed)


_OF_TEXT = {
    "--text": st.sampled_from(["tiny-icl", "/no/such.txt", "/dev/null", "", "a" * 5000, "no/such"]),
    "--tokens": st.sampled_from(["60", "0", "-5", "many", "9" * 30]),
    "--length": st.sampled_from(["24", "2", "0", "99999999", "-1"]),
    "--seed": st.sampled_from(["0", "-1", "9" * 30, str(2**32 - 1), str(2**32), "x"]),
    "--packing": st.sampled_from(["packed", "documents", "cut"]),
    "--processing": st.sampled_from(["none", "fold", "folded", ""]),
} | {name: _OPTIONS[name] for name in ("--out", "--batch-size", "--protocol", "--device", "--dtype", "--model")}


@settings(CASES, max_examples=CASES.max_examples // (1 if CASES.max_examples > 100 else 4))
@given(st.fixed_dictionaries({}, optional=_OF_TEXT))
def test_commands_on_text(changed: dict[str, str]) -> None:
    commanded("norms", {"--model": "tiny-icl", "--text": "tiny-icl", "--tokens": "60", "--length": "24"}, changed)


def commanded(study: str, asked: dict[str, str], changed: dict[str, str]) -> None:
    """The command in this process: exit code 0 with a result, or 2 with a sentence and nothing saved."""
    import contextlib
    import io
    import sys
    import tempfile
    from unittest import mock

    from mechicl.cli import main

    with tempfile.TemporaryDirectory() as folder:
        asked = {**asked, "--device": "cpu", "--out": f"{folder}/out", **changed}
        arguments = ["mechicl", "run", study, *(part for pair in asked.items() for part in pair)]
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", arguments),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
                code = 0
            except SystemExit as stopped:
                code = int(stopped.code or 0)
        saved = Path(folder, "out", f"{study}.json").exists()
        if code == 0:
            assert saved or "--out" in changed, arguments
        else:
            assert code == 2, (arguments, err.getvalue())
            assert err.getvalue().strip(), arguments
            assert "Traceback" not in err.getvalue()
            assert not saved


# ---- task files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doors")


def asked_of(path: Path) -> PromptSet | None:
    """The prompts of a task with this file, or None with a sentence; made whole, never in part."""
    task = Task("films", "Review: {text}\nSentiment:{label}", _WORDS, path)
    prompts = told(lambda: task.prompts(tiny.tokenizer(), samples=2, seed=0))
    if prompts is not None:
        assert all(prompt.gold in (0, 1, None) and len(prompt.demonstrations) == 2 for prompt in prompts)
    return prompts


_ROW = st.fixed_dictionaries(
    {}, optional={"text": st.text(max_size=12) | _JSON, "label": _LABELS, "other": st.text(max_size=3)}
)
_GOOD = [{"text": f"a film {i}", "label": name} for i in range(3) for name in _WORDS]


@settings(CASES, max_examples=CASES.max_examples // (1 if CASES.max_examples > 100 else 2))
@given(st.lists(_ROW | st.sampled_from(_GOOD), max_size=8), st.binary(max_size=6), st.integers(0, 400))
def test_files_of_rows(folder: Path, rows: list[dict[str, Any]], noise: bytes, at: int) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = pd.DataFrame([{name: str(value) for name, value in row.items()} for row in rows])
    written = {"jsonl": lines, "csv": table.to_csv(index=False).encode("utf-8", "replace"),
               "tsv": table.to_csv(index=False, sep="\t").encode("utf-8", "replace")}  # fmt: skip
    with suppress(Exception):  # lone surrogates have no place in parquet
        table.to_parquet(folder / "whole.parquet")
        written["parquet"] = (folder / "whole.parquet").read_bytes()
    for kind, content in written.items():
        path = folder / f"rows.{kind}"
        for damaged in (content, content[:at] + noise + content[at + 1 :], content[:at]):
            path.write_bytes(damaged)
            asked_of(path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-32", "cp037"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_other_encodings(folder: Path, encoding: str, kind: str) -> None:
    text = {"jsonl": '{"text": "café", "label": "negative"}\n', "csv": "text,label\ncafé,negative\n",
            "tsv": "text\tlabel\ncafé\tnegative\n"}[kind]  # fmt: skip
    path = folder / f"encoded.{kind}"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=r"UTF-8|not JSON|column|not readable"):
        Task("films", "Review: {text}\nSentiment:{label}", _WORDS, path).prompts(tiny.tokenizer())


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_line_of_100_mb(folder: Path, kind: str) -> None:
    path = folder / f"long.{kind}"
    start, end = ('{"text": "', '", "label": "negative"}\n') if kind == "jsonl" else ("text,label\n", ",negative\n")
    path.write_text(start + "x" * 100_000_000 + end)
    with pytest.raises(InputError) as error:
        Task("films", "Review: {text}\nSentiment:{label}", _WORDS, path).prompts(tiny.tokenizer(), n_ctx=512)
    assert len(str(error.value)) < 500
    path.unlink()


# ---- tasks and prompts


@CASES
@given(
    st.text(max_size=20) | st.sampled_from(["{text}\nA:{label}", "{text}{label}", "{label} {text}", "{text}: {label}"]),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.none() | st.integers(), max_size=3),
    st.lists(st.text(max_size=6), min_size=1, max_size=3),
    st.integers(-1, 3),
)
def test_tasks(template: str, words: dict[str, Any], texts: list[str], shots: int) -> None:
    def made() -> PromptSet:
        rows = [{"text": text, "label": name} for text in texts for name in words]
        return Task("any", template, words, {"train": rows, "test": rows}).prompts(tiny.tokenizer(), shots=shots)

    prompts = told(made)
    if prompts is not None:
        for prompt in prompts:
            assert all(prompt.tokens[d.label[0]] == prompt.label_ids[d.label_class] for d in prompt.demonstrations)


@CASES
@given(
    st.lists(st.integers(-2, 400), max_size=8), st.lists(st.lists(st.integers(-1, 9), max_size=3), max_size=3),
    st.lists(st.integers(-1, 400), max_size=3), st.none() | st.integers(-2, 3),
)  # fmt: skip
def test_stored_prompts(tokens: list[int], places: list[list[int]], label_ids: list[int], gold: int | None) -> None:
    from mechicl.hooks import run
    from mechicl.probes import LabelAttention

    def asked() -> Any:
        return run(tiny.model("gpt2"), [Prompt.from_positions(tokens, places, label_ids, gold)], [LabelAttention()])

    seen = told(asked)
    assert seen is None or bool(seen.label_logits.isfinite().all())


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.no_paper_protocol])
def test_a_protocol_that_a_study_does_not_have(name: str) -> None:
    with pytest.raises(InputError, match=f"(?i){name} has no protocol 'paper': .+\\."):
        STUDIES[name](protocol="paper")


def test_label_words_that_no_token_tells_apart() -> None:
    rows = [{"text": "a", "label": name} for name in ("a", "b") for _ in range(3)]
    for words in ({"a": " Positive", "b": " Positive"}, {"a": " Posit", "b": " Posing"}, {"a": "", "b": " "}):
        with pytest.raises(InputError):
            Task("t", "{text}\nA:{label}", words, rows).prompts(tiny.tokenizer())


# ---- what was saved


def damaged(content: bytes, seed: int) -> bytes:
    """Cut off, with bytes changed, or with bytes between."""
    chance = random.Random(seed)
    at = chance.randrange(len(content) + 1)
    noise = chance.randbytes(chance.randrange(1, 9))
    return chance.choice(
        [content[:at], content[:at] + noise + content[at + len(noise) :], content[:at] + noise + content[at:]]
    )


@pytest.fixture(scope="module")
def context_folder(folder: Path) -> Path:
    prompts = random_prompts(1)
    read_context(tiny.model("gpt2"), prompts[0]).save(folder / "context")
    return folder / "context"


@pytest.fixture(scope="module")
def reweighting_folder(folder: Path) -> Path:
    ReweightAnchors(torch.zeros(3, 4, 2), about={"label_words": [" A", " B"]}).save(folder / "beta")
    return folder / "beta"


@pytest.fixture(scope="module")
def lens_folder(folder: Path) -> Path:
    about = {"weight_digest": "0", "model": "gpt2", "sequences": ["0", "1"]}
    TunedLens(torch.zeros(3, 2, 2), torch.zeros(3, 2), about).save(folder / "lens")
    return folder / "lens"


@pytest.fixture(scope="module")
def result_folder(folder: Path) -> Path:
    Isolation(n_layers=(1,)).run(tiny.model("gpt2"), random_prompts(2)).save(folder / "result")
    return folder / "result"


def with_changed_fact(facts: Any, value: Any, seed: int) -> Any:
    """The same JSON with something in it replaced by something else."""
    chance = random.Random(seed)
    if not isinstance(facts, (dict, list)) or not facts or chance.random() < 0.15:
        return value
    copy: Any = dict(facts) if isinstance(facts, dict) else list(facts)
    at = chance.choice(list(copy)) if isinstance(copy, dict) else chance.randrange(len(copy))
    if chance.random() < 0.15:
        del copy[at]
    else:
        copy[at] = with_changed_fact(copy[at], value, seed + 1)
    return copy


@CASES
@given(st.integers(0, 10**6), st.booleans(), _JSON)
def test_saved_contexts(context_folder: Path, tmp_path_factory: Any, seed: int, bytes_only: bool, value: Any) -> None:
    copy = context_folder.parent / "context copy"
    shutil.copytree(context_folder, copy, dirs_exist_ok=True)
    if bytes_only:
        file = copy / random.Random(seed).choice(["context.safetensors", "context.json"])
        file.write_bytes(damaged(file.read_bytes(), seed))
    else:
        facts = json.loads((copy / "context.json").read_text())
        (copy / "context.json").write_text(json.dumps(with_changed_fact(facts, value, seed)))
    context = told(lambda: Context.load(copy))
    if context is not None:
        told(lambda: context.ask(tiny.model("gpt2"), random_prompts(1)))


def damaged_copy(folder: Path, stem: str, seed: int, bytes_only: bool, value: Any) -> Path:
    """A folder's copy with damaged bytes in one of its two files, or another fact in its JSON."""
    copy = folder.parent / f"{stem} copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    if bytes_only:
        file = copy / random.Random(seed).choice([f"{stem}.safetensors", f"{stem}.json"])
        file.write_bytes(damaged(file.read_bytes(), seed))
    else:
        facts = json.loads((copy / f"{stem}.json").read_text())
        (copy / f"{stem}.json").write_text(json.dumps(with_changed_fact(facts, value, seed)))
    return copy


@CASES
@given(st.integers(0, 10**6), st.booleans(), _JSON)
def test_saved_reweightings(reweighting_folder: Path, seed: int, bytes_only: bool, value: Any) -> None:
    copy = damaged_copy(reweighting_folder, "reweighting", seed, bytes_only, value)
    patch = told(lambda: ReweightAnchors.load(copy))
    if patch is not None:
        from mechicl.hooks import run

        told(lambda: run(tiny.model("gpt2"), random_prompts(1), patches=[patch]))


@CASES
@given(st.integers(0, 10**6), st.booleans(), _JSON)
def test_saved_lenses(lens_folder: Path, seed: int, bytes_only: bool, value: Any) -> None:
    copy = damaged_copy(lens_folder, "tuned_lens", seed, bytes_only, value)
    lens = told(lambda: TunedLens.load(copy))
    if lens is not None:
        told(lambda: lens.check(tiny.model("gpt2")))
        told(lambda: lens.check_apart(catalogue.text()))


@CASES
@given(st.integers(0, 10**6), st.booleans(), _JSON)
def test_saved_results(result_folder: Path, seed: int, bytes_only: bool, value: Any) -> None:
    """What was changed is refused, also where its digest was made to fit."""
    from mechicl.results import _canonical, _sha256

    copy = result_folder.parent / "result copy"
    shutil.copytree(result_folder, copy, dirs_exist_ok=True)
    if bytes_only:
        file = copy / random.Random(seed).choice(["isolation.parquet", "isolation.json"])
        file.write_bytes(damaged(file.read_bytes(), seed))
    else:
        head = json.loads((copy / "isolation.json").read_text())
        changed = with_changed_fact(head["provenance"], value, seed)
        head["provenance"] = changed
        if isinstance(changed, dict):
            head["provenance_sha256"] = _sha256(_canonical(changed))
        (copy / "isolation.json").write_text(json.dumps(head))
    result = told(lambda: load_result(copy, "isolation"))
    if isinstance(result, Result):
        assert result.study.name == "isolation"
        assert len(result.summary())
        assert result.finding()


@pytest.mark.parametrize("name", ["../isolation", "/etc/passwd", "", "isolation\0"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no study"):
        load_result(tmp_path, name)


@pytest.mark.parametrize("seed", [-1, 2**32, 9**99])
def test_seeds_that_no_generator_takes(seed: int) -> None:
    for door in (
        lambda: TASK.prompts(tiny.tokenizer(), seed=seed),
        lambda: TASK.prompts(tiny.tokenizer(), seed=seed, demonstrations="per_prompt"),
        lambda: load_task("tiny-topics-2").prompts(tiny.tokenizer(), seed=seed),
        lambda: load_corpus(tiny.tokenizer(), ["a film"] * 9, prepend_bos=True, seed=seed),
        lambda: Isolation(random_seed=seed),
        lambda: ManyLesions(draw_seed=seed),
    ):
        with pytest.raises(InputError, match="choose one from 0 to 4294967295"):
            door()


def test_more_text_than_there_is_memory_is_refused_at_once() -> None:
    """The shipped language has no end, and would be written until memory is full."""
    with pytest.raises(InputError, match=r"tokens is 1e\+30, more than fit"):
        load_corpus(tiny.tokenizer(), "tiny-icl", prepend_bos=True, tokens=10**30)


def test_tensors_that_contradict_each_other(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    context = read_context(tiny.model("gpt2"), random_prompts(1)[0])
    context.save(tmp_path)
    path = tmp_path / "context.safetensors"
    whole, facts = load_file(path), json.loads(path.with_suffix(".json").read_text())

    def written(tensors: dict[str, torch.Tensor], **changed: Any) -> None:
        """With a digest that fits."""
        for file, content in zip((path, path.with_suffix(".json")), packed(tensors, facts | changed), strict=True):
            file.write_bytes(content)

    written(whole)
    assert told(lambda: Context.load(tmp_path)) is not None
    for change in (
        {"keys.1": whole["keys.1"][:, :-1]}, {"values.0": whole["values.0"].to(torch.float16)},
        {"keys.0": whole["keys.0"] * torch.nan}, {"positions.2": whole["positions.2"].float()},
        {"keys.7": whole["keys.0"].clone()}, {"positions.0": whole["positions.0"].reshape(-1, 1)},
    ):  # fmt: skip
        written({**whole, **change})
        assert told(lambda: Context.load(tmp_path)) is None
    for places in ([0] * len(facts["places"]), [-1, *facts["places"][1:]], facts["places"][:-1]):
        written(whole, places=places)
        assert told(lambda: Context.load(tmp_path)) is None
    written({})
    assert told(lambda: Context.load(tmp_path)) is None
    ReweightAnchors(torch.full((1, 1, 2), torch.nan)).save(tmp_path)
    assert told(lambda: ReweightAnchors.load(tmp_path)) is None


@pytest.mark.parametrize("kind", ["context", "beta", "lens"])
def test_a_single_changed_bit_is_noticed(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """Any number of a saved tensor, changed to another finite one, would be silently wrong."""
    name = {"context": "context", "beta": "reweighting", "lens": "lens"}[kind]
    copy = Path(shutil.copytree(request.getfixturevalue(f"{name}_folder"), tmp_path / "copy"))
    (file,) = copy.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    load = {"context": Context.load, "beta": ReweightAnchors.load, "lens": TunedLens.load}[kind]
    with pytest.raises(InputError, match="not the file that its JSON describes"):
        load(copy)


# ---- models


@pytest.fixture(scope="module")
def model_folder(folder: Path) -> Path:
    tiny.huggingface("gpt2").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    return folder / "model"


@settings(CASES, max_examples=CASES.max_examples // (1 if CASES.max_examples > 100 else 8))
@given(
    st.integers(0, 10**6),
    st.sampled_from(["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]),
    _JSON,
    st.booleans(),
)
def test_model_folders(model_folder: Path, seed: int, name: str, value: Any, bytes_only: bool) -> None:
    copy = model_folder.parent / "model copy"
    shutil.copytree(model_folder, copy, dirs_exist_ok=True)
    file = copy / name
    if bytes_only or name == "model.safetensors":
        file.write_bytes(damaged(file.read_bytes(), seed))
    else:
        file.write_text(json.dumps(with_changed_fact(json.loads(file.read_text()), value, seed)))
    told(lambda: load_model(copy))
