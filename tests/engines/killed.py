"""A fit to be killed: imported once by the fork server, so that each victim starts at once."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from mechicl.corpora import TokenCorpus, load_corpus
from mechicl.engines import tuned_lens
from mechicl.probes import TunedLens
from tests import tiny

torch.set_num_threads(1)  # a pool of threads does not survive a fork
TEXTS = [
    "Review good film and a long sentence",
    "Question Answer Type of a Person in the World",
    "Happy Sad Angry film",
]


def corpus() -> TokenCorpus:
    return load_corpus(tiny.tokenizer(), TEXTS, prepend_bos=True, n_ctx=40, packing="documents")


def fit(folder: Path, slowly: bool = False) -> TunedLens:
    """Slowly, so that there is a middle to be killed in."""
    if slowly:
        step = tuned_lens._Training.step

        def slow(*arguments) -> None:
            time.sleep(0.05)
            step(*arguments)

        tuned_lens._Training.step = slow
    return tuned_lens.fit_tuned_lens(tiny.model("gpt2"), corpus(), steps=20, batch_size=2, out=folder)
