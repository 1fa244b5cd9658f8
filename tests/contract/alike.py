"""Every study with as little to do as it can, on a model that every class has: its table, to be compared.

    python -m tests.contract.alike tiny-icl FOLDER [--backend bridge] [--studies STUDY ...]

writes FOLDER/STUDY.parquet: another version of TransformerLens needs a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import mechicl as mi
from mechicl.studies.study import Study
from tests.contract import catalogue

TASKS = {"tiny-icl": "tiny-topics-4", "smollm2-135m-q4": "headlines"}
"""Models that exist as each class, with a task of four classes for each."""
TEXTS = {"tiny-icl": "tiny-icl", "smollm2-135m-q4": "pydocs"}
CLASS = ("Storm", "Tiger")
WORDS = (*CLASS, "Amber", "meki", "toki", "me ki", "to ki")
"""For both tokenizers: words of one token, words of two tokens that end alike, and phrases of the same tokens."""


def table(name: str, model: Any, study: Study) -> pd.DataFrame:
    """What one of `catalogue.studies()` measures on a model of this name."""
    if study.name == "entropy-neurons":
        study = replace(study, values=(6.0,))  # type: ignore[call-arg]
    if study.name in ("voting", "class-logits"):
        study = replace(study, token_class=CLASS)  # type: ignore[call-arg]
    return study.run(model, material(name, model.tokenizer, study)).table


def material(name: str, tokenizer: Any, study: Study) -> Any:
    """Four prompts, four sequences, eight pairs of sentences, or two questions."""
    if study.reads == "prompts":
        return study.prompts(mi.load_task(TASKS[name]), tokenizer, samples=4, seed=42)
    if study.reads == "pairs":
        return mi.corpora.load_word_pairs(tokenizer, list(_pairs()), prepend_bos=True, n_ctx=64)
    if study.reads == "benchmarks":
        return catalogue.benchmark()
    if study.reads == "weights":
        return None
    source: str | Sequence[str] = TEXTS[name]
    if study.name in ("voting", "word-identity", "word-merging"):
        draw = np.random.default_rng(0)
        source = [" " + " ".join(draw.choice(WORDS, 40)) for _ in range(12)]
        return mi.load_corpus(tokenizer, source, prepend_bos=True, n_ctx=80, packing="documents")
    return mi.load_corpus(tokenizer, source, prepend_bos=True, n_ctx=48, tokens=188)


def _pairs() -> Iterator[dict[str, str]]:
    for word in ("Storm", "Tiger", "River", "Maple"):
        for other, label in (("noliso", "T"), ("keso", "F")):
            yield {
                "word": word,
                "sentence1": f"the {word} sees",
                "sentence2": f"a {other} see the {word}",
                "label": label,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", nargs="*")
    parser.add_argument("--backend", choices=["hooked", "bridge"])
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    model = mi.load_model(asked.model, backend=asked.backend, dtype=asked.dtype)
    asked.folder.mkdir(parents=True, exist_ok=True)
    for study in catalogue.studies():
        if not asked.studies or study.name in asked.studies:
            table(asked.model, model, study).to_parquet(asked.folder / f"{study.name}.parquet")
            print(study.name, flush=True)


if __name__ == "__main__":
    main()
