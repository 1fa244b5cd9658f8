"""One model, one prompt and one explorer for all tests of the explorer."""

from __future__ import annotations

from typing import Any

import pytest

import mechicl as mi
from mechicl.explorer import Explorer


@pytest.fixture(scope="session")
def tiny_icl() -> Any:
    return mi.load_model("tiny-icl")


@pytest.fixture(scope="session")
def prompt(tiny_icl: Any) -> Any:
    return mi.load_task("tiny-topics-2").prompts(tiny_icl.tokenizer, samples=1, seed=42)[0]


@pytest.fixture(scope="session")
def reweighting(tiny_icl: Any) -> mi.patches.ReweightAnchors:
    import torch

    return mi.patches.ReweightAnchors(torch.full((1, 1, 2), -3.0))


@pytest.fixture(scope="session")
def explorer(tiny_icl: Any, prompt: Any, reweighting: mi.patches.ReweightAnchors) -> Explorer:
    return mi.explore(tiny_icl, prompt, patches={"fewer anchors": reweighting})
