"""The real model, loaded once: as mechicl gives it, and as plain transformers does from the same files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.models import smollm2
from tests.real import reference
from tests.real.material import N_TRAIN, TEXTS, rows

CONTROL = 10
"""How many times the bound a deliberate error has to exceed."""


@dataclass(frozen=True)
class Real:
    """Both models, the prompts and texts that both read, and the reference's passes that several tests share."""

    model: Any
    """As `mechicl.load_model` returns it."""
    hf: Any
    """A LlamaForCausalLM with eager attention and frozen parameters."""

    @cached_property
    def task(self) -> mi.Task:
        words = {"negative": " Negative", "positive": " Positive"}
        data = {"train": rows(slice(N_TRAIN)), "test": rows(slice(N_TRAIN, None))}
        return mi.Task("own-reviews", "Review: {text}\nSentiment:{label}", words, data)

    @cached_property
    def prompts(self) -> Any:
        """Four prompts of about 70 tokens with one demonstration per class."""
        return self.task.prompts(self.model.tokenizer, samples=4, seed=42)

    @cached_property
    def corpus(self) -> Any:
        """Two sequences of 139 and 64 tokens, the shorter one padded."""
        return mi.load_corpus(self.model.tokenizer, TEXTS, prepend_bos=True, packing="documents")

    @cached_property
    def texts(self) -> list[list[int]]:
        """The sequences of `corpus` without padding."""
        pairs = zip(self.corpus.tokens, self.corpus.lengths, strict=True)
        return [tokens[:length].tolist() for tokens, length in pairs]

    @cached_property
    def passes(self) -> list[reference.Pass]:
        """Of the prompts."""
        return [reference.saliency_pass(self.hf, prompt) for prompt in self.prompts]

    @cached_property
    def text_passes(self) -> list[reference.TextPass]:
        """Of the texts."""
        return [reference.text_pass(self.hf, tokens) for tokens in self.texts]


@pytest.fixture(scope="session")
def real() -> Real:
    """Skips where the model cannot be fetched; with CI=true that is a failure."""
    from transformers import AutoModelForCausalLM

    try:
        folder = smollm2.folder()
    except mi.InputError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{smollm2.NAME} cannot be had, and with CI=true these tests must run: {error}")
        pytest.skip(str(error))
    model = mi.load_model(smollm2.NAME)
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return Real(model, hf.eval().requires_grad_(False))


@pytest.fixture
def agree() -> Callable[..., None]:
    """Compares mechicl's numbers with the reference's, and with what a deliberate error in the reference gives.

    `agree(quantity, ours, theirs, within=bound, mistaken=control)`: the largest deviation is at most the bound, that
    of the control more than `CONTROL` times the bound. With `relative`, deviations are shares of the reference's values.
    `pytest -rP` shows every largest deviation.
    """

    def compare(quantity: str, ours: Any, theirs: Any, *, within: float, mistaken: Any, relative: bool = False) -> None:
        off, error = (largest_deviation(ours, values, relative) for values in (theirs, mistaken))
        print(f"{quantity}: {off:.1e} (bound {within:.0e}, control {error:.1e})")
        assert off <= within, f"{quantity} is off by {off:.1e}"
        assert error > CONTROL * within, f"a deliberate error moves {quantity} by {error:.1e} only: the bound is loose"

    return compare


def largest_deviation(ours: Any, theirs: Any, relative: bool) -> float:
    """The largest absolute difference of two tensors, or of their ratio from 1."""
    ours, theirs = (torch.as_tensor(values, dtype=torch.float64) for values in (ours, theirs))
    assert ours.shape == theirs.shape, f"{list(ours.shape)} against {list(theirs.shape)}"
    difference = (ours - theirs).abs()
    return float((difference / theirs.abs() if relative else difference).max())
