"""Every study with as little to do as it can, on a model that every class has: its table, and what of it is compared.

    python -m tests.contract.alike tiny-icl FOLDER [--backend bridge] [--studies STUDY ...]

writes FOLDER/STUDY.parquet: another version of TransformerLens needs a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import mechicl as mi
from mechicl.studies.stages.inner_lexicon import InnerLexicon
from mechicl.studies.stages.part_of_speech import PartOfSpeech
from mechicl.studies.study import Study
from tests.contract import catalogue


@dataclass(frozen=True)
class Material:
    """What one model reads."""

    task: str
    of_many_classes: str
    """A task of three classes or more, for error diagnosis."""
    samples: int
    text: str
    n_ctx: int
    tokens: int
    documents: int
    """Of words drawn from `WORDS`."""


MATERIAL = {
    "tiny-icl": Material(
        "tiny-topics-4", "tiny-topics-4", samples=4, text="tiny-icl", n_ctx=48, tokens=188, documents=12
    ),
    "smollm2-135m-q4": Material("reviews", "headlines", samples=2, text="pydocs", n_ctx=16, tokens=60, documents=8),
}
"""Models that exist as each class."""
LESS = {
    "anchor-heads": {"alone": 0},
    "anchor-patching": {"sites": ("resid_post",)},
    "anchor-sweep": {"windows": (27,)},
    "error-diagnosis": {"components": (1,)},
    "information-flow": {"untrained": 0},
    "layer-lesions": {"kinds": ("drop",)},
}
"""For a model of many layers."""
REAL_WORDS = (InnerLexicon(pieces=(2,), words=100, context=2), PartOfSpeech(words=100, context=4))
"""Studies of words that have a token of their own, which only the real model's tokenizer has."""
CLASS = ("Storm", "Tiger")
WORDS = (*CLASS, "Amber", "meki", "toki", "me ki", "to ki")
"""For both tokenizers: words of one token, words of two tokens that end alike, and phrases of the same tokens."""


EXACTLY = ("information-flow", "isolation", "deep-layers", "lesioned-icl", "word-merging", "entropy-neurons",
           "decision-layer", "anchor-heads", "reweighting")  # fmt: skip
"""Studies of which two classes are compared in float64, with the same rotary angles.

In float32 their tables differ by 1 to 4 times what is allowed: TransformerLens and Hugging Face round angles differently
(by 3e-5 at position 512), attention hence by 1e-6, which the mean over single edges, or the logits of rows that see
little but themselves, shows; two nearly equal losses are subtracted (word-merging, entropy-neurons); and Adam divides
gradients by their size (reweighting). In float64 with the same angles nothing of that is left, and what differs would be
an error.
"""


@functools.cache
def loaded(name: str, backend: str | None, dtype: str) -> Any:
    """A model of this name; a HookedTransformer in float64 takes the angles that a Bridge rotates by."""
    model = mi.load_model(name, backend=backend, dtype=dtype)  # type: ignore[arg-type]
    if dtype == "float64" and not hasattr(model, "original_model"):
        rotary = mi.load_model(name, backend="bridge").rotary_emb.original_component
        positions = torch.arange(len(model.blocks[0].attn.rotary_cos))[None]
        tables = rotary(torch.zeros(1), position_ids=positions)
        for block in model.blocks:
            block.attn.rotary_cos, block.attn.rotary_sin = (table[0].double() for table in tables)
    return model


@contextmanager
def unrounded() -> Iterator[None]:
    """Hugging Face's Llama takes norms and softmax in float32 whatever the dtype; here in the dtype of their input."""
    softmax = torch.nn.functional.softmax

    def norm(self: Any, resid: torch.Tensor) -> torch.Tensor:
        return self.weight * resid * torch.rsqrt(resid.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def of_input(x: torch.Tensor, *args: Any, dtype: torch.dtype | None = None, **rest: Any) -> torch.Tensor:
        return softmax(x, *args, dtype=x.dtype if x.dtype == torch.float64 else dtype, **rest)

    with patch.object(LlamaRMSNorm, "forward", norm), patch("torch.nn.functional.softmax", of_input):
        yield


def dtype_of(study: Study) -> str:
    """In which a study is compared."""
    return "float64" if study.name in EXACTLY else "float32"


def studies(name: str) -> list[Study]:
    """Every study that a model of this name has material for."""
    if name == "tiny-icl":
        return [study for study in catalogue.studies() if study.name != "joiner-ablation"]  # too few words
    return [*(replace(study, **LESS.get(study.name, {})) for study in catalogue.studies()), *REAL_WORDS]


def table(name: str, model: Any, study: Study) -> pd.DataFrame:
    """What one of `studies` measures on a model of this name."""
    if study.name == "entropy-neurons":
        study = replace(study, values=(6.0,))  # type: ignore[call-arg]
    if study.name in ("voting", "class-logits"):
        study = replace(study, token_class=CLASS)  # type: ignore[call-arg]
    return study.run(model, material(name, model.tokenizer, study)).table


def material(name: str, tokenizer: Any, study: Study) -> Any:
    """A few prompts or sequences, eight pairs of sentences, or two questions."""
    given = MATERIAL[name]
    if study.reads == "prompts":
        task = given.of_many_classes if study.name == "error-diagnosis" else given.task
        return study.prompts(mi.load_task(task), tokenizer, samples=given.samples, seed=42)
    if study.reads == "pairs":
        return mi.corpora.load_word_pairs(tokenizer, list(_pairs()), prepend_bos=True, n_ctx=64)
    if study.reads == "benchmarks":
        return catalogue.benchmark()
    if study.reads == "weights":
        return None
    if study.name in ("voting", "word-identity", "word-merging"):
        draw = np.random.default_rng(0)
        documents = [" " + " ".join(draw.choice(WORDS, 40)) for _ in range(given.documents)]
        return mi.load_corpus(tokenizer, documents, prepend_bos=True, n_ctx=80, packing="documents")
    long = study.name in ("joiner-ablation", *catalogue.WANTS_WORDS)  # which look for words in it
    enough = {"inner-lexicon": 6000, "joiner-ablation": 1600}.get(study.name, 800)
    n_ctx, tokens = (128, enough) if long else (given.n_ctx, given.tokens)
    return mi.load_corpus(tokenizer, given.text, prepend_bos=True, n_ctx=n_ctx, tokens=tokens)


CLOCKS = {"compression-speed": ["seconds", "caching_seconds"]}


def comparable(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A study's table without clock times, weights' digests, and untrained twins, which each class draws for itself."""
    table = table.drop(columns=CLOCKS.get(name, []))
    if name == "information-flow":
        table = table[table["weights"] == "as given"].reset_index(drop=True)
    if name == "reweighting":
        fits = [json.loads(fit) if isinstance(fit, str) else {"about": {}, "beta": []} for fit in table.pop("fit")]
        betas = [list(np.ravel(fit.pop("beta"))) for fit in fits]
        for fit in fits:
            fit["about"] = {key: value for key, value in fit["about"].items() if not key.endswith("_digest")}
        table = table.assign(fit=[json.dumps(fit, sort_keys=True) for fit in fits], beta=betas)
    return table


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
    parser.add_argument("model", choices=MATERIAL)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", nargs="*")
    parser.add_argument("--backend", choices=["hooked", "bridge"])
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for study in studies(asked.model):
        if not asked.studies or study.name in asked.studies:
            model = loaded(asked.model, asked.backend, dtype_of(study))
            table(asked.model, model, study).to_parquet(asked.folder / f"{study.name}.parquet")
            print(study.name, flush=True)


if __name__ == "__main__":
    main()
