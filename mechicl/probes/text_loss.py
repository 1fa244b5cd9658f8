"""How well a model predicts the texts of a prompt, as opposed to its label words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mechicl.hooks import Probe, Watch
from mechicl.models import hooked
from mechicl.probes.words import mean_loss_at
from mechicl.prompts import Prompt, PromptBatch


@dataclass(frozen=True)
class TextLoss(Probe):
    """Next-token loss, mean over the text tokens of demonstrations and query: reading [prompt].

    The token at position 0, which nothing predicts, does not count. If texts are not marked (`from_positions`), all
    tokens except the label words count as text.
    """

    units = {"loss": "nats"}
    terms = {"loss": "tokens"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        chosen = torch.zeros_like(batch.tokens, dtype=torch.bool)
        for row, prompt in enumerate(batch.prompts):
            chosen[row, [place - 1 for place in _text(prompt)]] = True
        return mean_loss_at(hooked(model), batch.tokens, chosen)


def _text(prompt: Prompt) -> list[int]:
    marked = {*prompt.w, *prompt.query_text} - {0}
    return sorted(marked or set(range(1, len(prompt))) - set(prompt.label_positions))
