"""A model larger than one GPU: its blocks spread over several, everything else on the first.

Residuals, readings and edits are on the first device: a block moves its input to its weights' device and returns its
output, and hooks see values on the first device. So probes, patches and engines need not know about the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mechicl.models.adapter import Hook


def spread(model: Any, devices: Sequence[torch.device]) -> None:
    """Put the same number of blocks on each device; embeddings, final norm and unembedding are on the first."""
    n_layers = len(model.blocks)
    place(model, devices[0], [devices[layer * len(devices) // n_layers] for layer in range(n_layers)])


def place(model: Any, home: torch.device, of_blocks: Sequence[torch.device]) -> None:
    """Put each block on its device and everything else on `home`.

    Nothing passes through another device: the first need not have room for the whole model.
    """
    inside = {id(module) for block in model.blocks for module in block.modules()}
    for block, device in zip(model.blocks, of_blocks, strict=True):
        block.to(device)
    for module in model.modules():
        if id(module) not in inside:
            module._apply(lambda tensor: tensor.to(home), recurse=False)
    model.cfg.device = str(home)


def places(model: Any) -> list[torch.device]:
    """The device of each block."""
    return [next(block.parameters()).device for block in model.blocks]


def devices_from(first: torch.device, n_devices: int) -> list[torch.device]:
    """The given number of devices of one kind, from the first on."""
    if n_devices == 1:
        return [first]
    return [torch.device(first.type, (first.index or 0) + place) for place in range(n_devices)]


def at_home(hook: Hook, home: torch.device) -> Hook:
    """A hook that sees values on this device, wherever its block is, and whose edits are moved back."""
    name, function = hook

    def moved(value: Tensor, hook: Any) -> Tensor | None:
        here = value.to(home)
        new: Tensor | None = function(here, hook=hook)
        if here is value:
            return new
        if new is None and here.requires_grad:
            new = here  # the hook may want this tensor's gradient, so the pass has to go through it
        return None if new is None else new.to(value.device)

    return name, moved
