"""Training: a stopped run resumes as if it had never stopped, and a wrong checkpoint is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny_icl.classification import draw_batch
from benchmarks.tiny_icl.curriculum import LESSONS
from benchmarks.tiny_icl.network import Sizes
from benchmarks.tiny_icl.train import Recipe, Training, train
from mechicl.errors import InputError

TINY = Recipe(
    steps=4, warmup=2, answer_tokens=100, running_rows=2, running_length=32, check_every=4, save_every=2,
    layers=2, d_model=32,
)  # fmt: skip


def test_resuming_changes_nothing(tmp_path: Path) -> None:
    whole = train(TINY, seed=3, out=tmp_path / "whole", device="cpu")
    half = Training(TINY, seed=3, device="cpu")
    for _ in range(2):
        half.advance()
    half.save(tmp_path / "checkpoint.safetensors")
    rest = train(TINY, seed=3, out=tmp_path, device="cpu")
    assert rest.step == whole.step == 4
    for (name, a), b in zip(whole.network.named_parameters(), rest.network.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "whole" / "log.jsonl").read_text().count("\n") == 1


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    Training(TINY, seed=1, device="cpu").save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(InputError, match="seed 1, not 2"):
        train(TINY, seed=2, out=tmp_path, device="cpu")


def test_the_longest_lesson_fits_the_context() -> None:
    rng = np.random.default_rng(0)
    lesson = LESSONS[-1]
    drawn = [draw_batch(20, lesson.classes, lesson.blocks, lesson.shape, rng) for _ in range(20)]
    assert max(batch.tokens.shape[1] for batch in drawn) < Sizes(1).n_ctx
