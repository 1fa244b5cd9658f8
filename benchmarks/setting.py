"""What the benchmarks run on: a random model of GPT-2-small's sizes with TREC-sized prompts, and tiny-icl."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechicl import load_task
from mechicl.prompts import Prompt, PromptSet
from mechicl.studies.label_words.reweighting import Reweighting

CLASSES, DEMONSTRATION, QUERY = 6, 22, 16


def random_model() -> HookedTransformer:
    """A GPT-2-like model with random weights."""
    torch.manual_seed(0)
    cfg = HookedTransformerConfig(
        n_layers=12, d_model=768, d_head=64, n_heads=12, d_mlp=3072, n_ctx=1024, d_vocab=50257,
        act_fn="gelu_new", normalization_type="LN", seed=0,
    )  # fmt: skip
    return HookedTransformer(cfg).eval()


def random_prompts(n: int) -> PromptSet:
    """Queries of random tokens behind the same random demonstrations; as companions some to learn from, and the same
    queries behind five times as many demonstrations.
    """
    generator = np.random.default_rng(0)
    queries = [generator.integers(0, 50257, QUERY).tolist() for _ in range(n)]
    learned = [generator.integers(0, 50257, QUERY).tolist() for _ in range(4 * CLASSES)]
    one, five = (generator.integers(0, 50257, shots * CLASSES * DEMONSTRATION).tolist() for shots in (1, 5))
    companions = {"training": _behind(one, learned), "more_shots": _behind(five, queries)}
    return replace(_behind(one, queries), companions=companions)


def _behind(shown: list[int], queries: list[list[int]]) -> PromptSet:
    ends = [end - 2 for end in range(DEMONSTRATION, len(shown) + 1, DEMONSTRATION)]
    labels = np.reshape(ends, (CLASSES, -1)).tolist()
    ids = list(range(100, 100 + CLASSES))
    return PromptSet.of(
        [Prompt.from_positions([*shown, *query], labels, ids, i % CLASSES) for i, query in enumerate(queries)]
    )


def tiny_icl(model: Any, n: int) -> PromptSet:
    """Questions of tiny-icl's own task of four topics, with their companions."""
    return Reweighting().prompts(load_task("tiny-topics-4"), model.tokenizer, samples=n, seed=42)
