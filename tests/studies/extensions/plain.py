"""Plain loops of `run_with_hooks`, which the extensions' studies must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mechicl.prompts import PromptSet
from tests import tiny
from tests.engines.test_compression import TASK

Hooks = Sequence[tuple[str, Callable[..., Any]]]


def prompts(samples: int = 4, **options: Any) -> PromptSet:
    """Two classes behind a template, of different lengths, with a demonstration set each."""
    return TASK.prompts(tiny.tokenizer(), samples=samples, **{"seed": 0, "demonstrations": "per_prompt", **options})


def logits(model: Any, prompt: Any, hooks: Hooks = ()) -> torch.Tensor:
    """Logits at the target [vocab] of one prompt, by the model's own forward pass."""
    tokens = torch.tensor([prompt.tokens])
    return model.run_with_hooks(tokens, fwd_hooks=list(hooks), prepend_bos=False)[0, prompt.target].float()


def kept(model: Any, prompt: Any, points: Sequence[str]) -> dict[str, torch.Tensor]:
    """What one prompt has at these hook points."""
    found: dict[str, torch.Tensor] = {}

    def keep(point: str) -> Callable[..., None]:  # a Bridge's hook points do not know all of their names
        return lambda value, hook: found.__setitem__(point, value.detach().clone())

    with torch.no_grad():
        logits(model, prompt, [(point, keep(point)) for point in points])
    return found


def points(model: Any, site: str) -> list[str]:
    """A hook point of every layer."""
    return [f"blocks.{layer}.{site}" for layer in range(model.cfg.n_layers)]
