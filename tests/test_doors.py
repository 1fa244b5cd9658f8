"""Python's doors: a wrong argument is one sentence that names it, never an error of Python, numpy or PyTorch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import mechicl as mi
from mechicl.corpora import TokenCorpus, load_corpus
from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.prompts import Prompt, PromptSet, Query, Shot, Template, build_prompts
from mechicl.studies.label_words.isolation import Isolation
from tests import tiny
from tests.contract import catalogue

TASK, TOKENIZER = catalogue.TASK, tiny.tokenizer()
WRONG: tuple[Any, ...] = (2.5, "x", None, [], {}, -1, object(), float("nan"), torch.zeros(2), Path("a"))


@door
def made(n: int, how: Literal["a", "b"] = "a", *, texts: Sequence[str] = (), share: float | None = None) -> int:
    return n


def test_what_annotations_allow_passes() -> None:
    for n in (3, np.int64(3), torch.tensor(3)):
        assert made(n, "b", texts=["x", "y"], share=0.5) == 3
    assert made(1, texts=np.array(["x"]), share=np.float32(2)) == made(1, share=2) == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: made(2.5), "n is 2.5; give a whole number."),  # type: ignore[arg-type]
        (lambda: made(True), "n is True; give a whole number."),
        (lambda: made(1, "c"), "how is 'c'; give 'a' or 'b'."),  # type: ignore[arg-type]
        (lambda: made(1, texts="xy"), "texts is 'xy'; give a list of strings."),
        (lambda: made(1, texts=["x", 5]), "texts[1] is 5; give a list of strings."),  # type: ignore[list-item]
        (lambda: made(1, share="x"), "share is 'x'; give a number or None."),  # type: ignore[arg-type]
        (lambda: made(), "made(): missing a required argument: 'n'; its arguments are n, how, texts, share."),  # type: ignore[call-arg]
        (lambda: made(1, x=2), "made(): got an unexpected keyword argument 'x'; its arguments are n, how, texts, share."),  # type: ignore[call-arg]
    ],
)  # fmt: skip
def test_what_they_do_not_allow_is_named(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        call()
    assert str(refusal.value) == sentence


@door
def placed(pairs: tuple[tuple[int, int], ...]) -> int:
    return len(pairs)


def test_pairs_are_checked_one_by_one_if_they_are_not_all_plain() -> None:
    assert placed(()) == 0
    assert placed(((0, 1), (np.int64(1), 2))) == placed(((0, 1), (1, 2))) == 2
    for wrong in ((0, True), (0, 1.0), (0, 1, 2), (0,), "ab"):
        with pytest.raises(InputError, match=r"pairs\[1\] is"):
            placed(((0, 1), wrong))  # type: ignore[arg-type]


def corpus(**more: Any) -> Any:
    return load_corpus(TOKENIZER, **{"source": ["a film " * 40], "prepend_bos": True, "n_ctx": 16, **more})


def token_corpus(**more: Any) -> Any:
    whole = corpus()
    parts = {name: getattr(whole, name) for name in ("tokens", "lengths", "documents", "words")}
    return TokenCorpus(**{**parts, "tokenizer": TOKENIZER, "prepend_bos": True, **more})


def prompts(**more: Any) -> Any:
    return TASK.prompts(TOKENIZER, **{"samples": 2, **more})


def built(**more: Any) -> Any:
    given = {
        "template": Template.parse("Review: {text}\nSentiment:{label}"), "label_words": [" Negative", " Positive"],
        "contents": [([Shot("good", 0)], Query("bad"))], "class_names": ["no", "yes"], **more,
    }  # fmt: skip
    return build_prompts(TOKENIZER, **given)


def stored(**more: Any) -> Any:
    return Prompt.from_positions(**{"tokens": [1, 2, 3], "label_positions": [[0], [1]], "label_ids": [1, 2], **more})


MODEL = tiny.model("gpt2")
DOORS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "load_corpus": (corpus, ("source", "n_ctx", "tokens", "documents", "seed", "packing", "prepend_bos", "column")),
    "TokenCorpus": (token_corpus, ("tokens", "lengths", "documents", "words")),
    "Task.prompts": (
        prompts,
        ("shots", "mislabelled", "samples", "seed", "demonstrations", "order", "anchor", "prepend_bos", "n_ctx",
         "too_long", "demonstration_text", "rows", "room_for"),
    ),
    "build_prompts": (built, ("template", "label_words", "contents", "class_names", "anchor", "n_ctx", "score", "chat")),
    "from_positions": (stored, ("tokens", "label_positions", "label_ids", "gold", "class_names", "string")),
    "load_model": (
        lambda **more: mi.load_model("tiny-icl", **more), ("processing", "dtype", "device", "n_devices", "n_ctx"),
    ),
    "a study": (
        lambda **more: mi.isolation(MODEL, prompts(), **more), ("batch_size", "n_layers", "protocol", "shots"),
    ),
    "an estimate": (lambda **more: Isolation(n_layers=(1,)).estimate(MODEL, prompts(), **more), ("batch_size",)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), [(name, one) for name, (_, those) in DOORS.items() for one in those])
def test_wrong_arguments_are_refused_or_understood(name: str, argument: str) -> None:
    call, refusals = DOORS[name][0], list[str]()
    for value in WRONG:
        try:
            call(**{argument: value})
        except InputError as refusal:
            refusals.append(str(refusal))
    assert len(refusals) >= len(WRONG) / 2, "most of these make no sense anywhere"
    assert not any("\n" in refusal or len(refusal) > 600 for refusal in refusals)


@pytest.mark.parametrize(
    "given", [5, None, "text", ["a"], [5], [None], {}, MODEL, b"x"], ids=lambda value: type(value).__name__
)
def test_what_is_no_prompts_is_refused_by_what_reads_prompts(given: Any) -> None:
    for call in (PromptSet.of, lambda x: mi.information_flow(MODEL, x), lambda x: mi.engines.fit_reweighting(MODEL, x)):
        with pytest.raises(InputError):
            call(given)


def test_an_empty_set_and_an_empty_corpus_are_refused() -> None:
    for call in (lambda: mi.isolation(MODEL, prompts()[:0]), lambda: mi.isolation(MODEL, [prompts(), prompts()[:0]])):
        with pytest.raises(InputError, match="empty; give at least one prompt"):
            call()
    for name in ("batch", "text", "word_spans"):
        with pytest.raises(InputError):
            getattr(corpus()[:0], name)(*(() if name == "batch" else (0,)))


def test_a_study_called_with_wrong_arguments_names_its_own() -> None:
    for call in (
        lambda: mi.isolation(),
        lambda: mi.isolation(MODEL),
        lambda: mi.isolation(MODEL, prompts(), shots="x"),
    ):
        with pytest.raises(InputError, match=r"isolation\(\): .*; its arguments are model, prompts"):
            call()


def test_chunks_of_no_size_are_refused() -> None:
    for part in (prompts(), corpus()):
        for size in (0, -1, 2.5, "x", None):
            with pytest.raises(InputError):
                list(part.chunks(size))


PUBLIC = {f"{room.__name__}.{name}": getattr(room, name)
          for room in (mi.metrics, mi.probes, mi.patches) for name in room.__all__}  # fmt: skip
ABSTRACT = ("CutEdges", "Edit", "Mode", "Positions")
RETURNED = ("ClassificationScores", "Correlation", "Interval", "LayerAUROC")


@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.endswith((*ABSTRACT, *RETURNED))])
def test_wrong_arguments_of_metrics_probes_and_patches_end_in_a_sentence(name: str) -> None:
    """With each argument in turn missing, or of a wrong kind: a result, or an InputError; nothing of Python's."""
    call = PUBLIC[name]
    names = [one for one in inspect.signature(call).parameters if one != "self"]
    tries = [{}, *(dict.fromkeys(names, wrong) for wrong in (None, -1, "x", [], {}, math.nan, torch.ones(0)))]
    tries += [{one: wrong} for one in names for wrong in (None, -1, "x", {}, np.ones((2, 2)))]
    for arguments in tries:
        with suppress(InputError):
            call(**arguments)


def test_shapes_that_do_not_fit_each_other_are_named() -> None:
    with pytest.raises(InputError, match=r"logits_q is of shape \[2, 6\]"):
        mi.metrics.kl_divergence(torch.rand(2, 5), torch.rand(2, 6))
