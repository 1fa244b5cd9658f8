"""One prompt's answer under each of many patches alone, in one sweep, equal to separate runs.

A patched pass equals the clean one below the first changed block, so those blocks run once for all patches
(`wavefront`). Patches outside the blocks, and models that can only be run whole, take one run each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.doors import door
from mechicl.engines.wavefront import residual_groups
from mechicl.errors import NumericalError
from mechicl.hooks import Pass, Patch, layer_of, run
from mechicl.hooks.sequence import check_sequence
from mechicl.models import Adapter, check_same_tokenizer, frozen, hooked, runs_by_block
from mechicl.prompts import Prompt, PromptBatch, PromptSet


@door
def label_logits_alone(model: Any, prompt: Prompt, patches: Sequence[Patch]) -> Float[Tensor, "patch class"]:
    """Logits of the label words at q of one prompt, under each patch alone.

    Raises:
        InputError: a patch does not suit this model or prompt, or whole label words score the classes.
        HookError: an edit never happened.
        NumericalError: a logit is NaN or infinite.
    """
    net, one = hooked(model), PromptSet((prompt,))
    check_same_tokenizer(net, one)
    check_sequence(prompt.label_tokens, "A sweep of patches")
    batch = one.batch(net.device)
    swept = [patch for patch in patches if runs_by_block(net) and _inside_blocks(net, patch, batch)]
    rows: dict[Patch, Tensor] = {}
    if swept and runs_by_block(net):
        with torch.no_grad(), frozen(net):
            groups = residual_groups(net, batch, swept)
            at_q = [final[:, prompt.target].clone() for _, *group in groups for final in group]  # lets the rest go
            logits = net.lens(torch.cat(at_q), batch.label_ids).cpu()
        rows = dict(zip(swept, logits, strict=True))
    rows |= {
        patch: run(model, one, (), [patch], progress=None).label_logits[0] for patch in patches if patch not in rows
    }
    logits = torch.stack([rows[patch] for patch in patches]) if patches else torch.empty(0, len(prompt.label_ids))
    if not logits.isfinite().all():
        raise NumericalError(f"A label logit of {net.name} is not finite under a patch; try dtype='float32'.")
    return logits


def _inside_blocks(net: Adapter, patch: Patch, batch: PromptBatch) -> bool:
    """Whether everything that a patch changes is inside blocks."""
    return all(layer_of(name) is not None for name, _ in Pass(net, [patch], batch).edits)
