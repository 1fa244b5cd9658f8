"""Prompts of random tokens for tiny models: all that the studies need of a prompt are its positions."""

from __future__ import annotations

import numpy as np

from mechicl.prompts import Prompt, PromptSet


def random_prompts(
    n: int = 5, *, d_vocab: int = 100, n_classes: int = 2, shots: int = 1, seed: int = 0, longest: int = 24
) -> PromptSet:
    """Prompts of different lengths with anchors in random places; label ids are the first tokens of the vocabulary."""
    generator = np.random.default_rng(seed)
    prompts = []
    for _ in range(n):
        n_tokens = int(generator.integers(longest // 2 + n_classes * shots, longest))
        places = generator.choice(np.arange(2, n_tokens - 4), n_classes * shots, replace=False)
        prompts.append(
            Prompt.from_positions(
                generator.integers(0, d_vocab, n_tokens).tolist(),
                places.reshape(n_classes, shots).tolist(),
                list(range(n_classes)),
                int(generator.integers(n_classes)),
                task="random",
            )
        )
    return PromptSet.of(prompts)
