"""What the benchmarks run on: a random model of GPT-2-small's sizes with TREC-sized prompts, and tiny-icl."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from measuring import SIZES, VOCABULARY, random_model

from mechicl import load_model, load_task
from mechicl.prompts import Demonstration, Prompt, PromptSet
from mechicl.studies.label_words.reweighting import Reweighting

CLASSES, DEMONSTRATION, QUERY = 6, 22, 16
BLOCK = "R:" + "x" * 16 + "S:L\n"
"""A demonstration's tokens, a character each: template, text, template, label word, line break."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options of both scripts of the first paper."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--size", choices=SIZES, default="gpt2", help="of the random model")
    found.add_argument("--n-layers", type=int, help="instead of the size's own")
    found.add_argument("--device", default="cpu")
    found.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    return found


def model_for(asked: argparse.Namespace) -> Any:
    """The model of the options."""
    if getattr(asked, "model", "random") == "tiny-icl":
        return load_model("tiny-icl", device=asked.device, dtype=asked.dtype)
    return random_model(asked).requires_grad_(True)


def random_prompts(n: int, vocabulary: int = VOCABULARY) -> PromptSet:
    """Queries of random tokens behind the same random demonstrations; as auxiliary some to learn from, and the same
    queries behind five times as many demonstrations.
    """
    generator = np.random.default_rng(0)
    queries = [generator.integers(0, vocabulary, QUERY).tolist() for _ in range(n)]
    learned = [generator.integers(0, vocabulary, QUERY).tolist() for _ in range(4 * CLASSES)]
    one, five = (generator.integers(0, vocabulary, shots * CLASSES * DEMONSTRATION).tolist() for shots in (1, 5))
    auxiliary = {"training": _behind(one, learned), "more_shots": _behind(five, queries)}
    return replace(_behind(one, queries), auxiliary=auxiliary)


def _behind(shown: list[int], queries: list[list[int]]) -> PromptSet:
    starts = list(range(0, len(shown), DEMONSTRATION))
    per_class, at = len(starts) // CLASSES, BLOCK.index("L")
    labels = np.reshape([start + at for start in starts], (CLASSES, -1)).tolist()
    ids = list(range(100, 100 + CLASSES))
    demonstrations = tuple(_block(start, index // per_class) for index, start in enumerate(starts))
    string = BLOCK * len(starts) + "x" * QUERY
    offsets = tuple((n, n + 1) for n in range(len(string)))
    prompts = [
        replace(
            Prompt.from_positions([*shown, *query], labels, ids, i % CLASSES, string=string),
            demonstrations=demonstrations, query_start=len(shown), offsets=offsets,
        )
        for i, query in enumerate(queries)
    ]  # fmt: skip
    return PromptSet.of(prompts)


def _block(start: int, label_class: int) -> Demonstration:
    label = start + BLOCK.index("L")
    text = tuple(start + i for i, kind in enumerate(BLOCK) if kind == "x")
    template = tuple(i for i in range(start, start + len(BLOCK)) if i not in text and i != label)
    return Demonstration(label_class, (start, start + len(BLOCK)), text, (label,), template, label)


def tiny_icl(model: Any, n: int) -> PromptSet:
    """Questions of tiny-icl's own task of four topics, with their auxiliary."""
    return Reweighting().prompts(load_task("tiny-topics-4"), model.tokenizer, samples=n, seed=42)
