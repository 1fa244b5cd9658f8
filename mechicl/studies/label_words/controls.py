"""What re-weighted anchors must be compared with: no anchors, and no attention."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.prompts import Prompt, PromptSet


def fit_biases(logits: Float[Tensor, "prompt class"], gold: Int[Tensor, "prompt"]) -> Float[Tensor, "class"]:
    """Biases of the label logits that minimise cross-entropy; a little weight decay keeps them finite."""
    bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(logits.double() + bias, gold) + 1e-3 * bias.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return bias.detach().float()


def at_random_positions(prompts: PromptSet, seed: int) -> PromptSet:
    """The same prompts with a random text token of each demonstration in the place of its anchor.

    Drawn by the seed and the demonstrations alone.
    """

    def moved(prompt: Prompt) -> Prompt:
        shown = np.asarray(prompt.tokens[: prompt.query_start], dtype=np.int64).tobytes()
        generator = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(shown).digest()[:8], "little")])
        demonstrations = [
            replace(one, anchor=int(generator.choice(one.text or one.template))) for one in prompt.demonstrations
        ]
        return replace(prompt, demonstrations=tuple(demonstrations))

    return replace(prompts, prompts=tuple(moved(prompt) for prompt in prompts))
