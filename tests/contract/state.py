"""What a model is, and what else may not change: weights, hooks, gradients, mode, blocks, and the random states."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def fingerprint(model: Any) -> dict[str, Any]:
    """All that must be the same after a run, read from the model itself and not from any cache."""
    weights = hashlib.sha256()
    for name, parameter in model.named_parameters():
        weights.update(name.encode())
        weights.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "weights": weights.hexdigest(),
        "gradients": {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()},
        "hooks": {name: _hooks(module) for name, module in model.named_modules()},
        "mode": {name: module.training for name, module in model.named_modules()},
        "blocks": [id(block) for block in model.blocks],
        "config": repr(sorted(vars(model.cfg).items(), key=lambda item: item[0])),
        "grad enabled": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
    }


def _hooks(module: Any) -> tuple[Any, ...]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ours = [len(getattr(module, kind, ())) for kind in ("fwd_hooks", "bwd_hooks")]
    return (*(tuple(getattr(module, kind)) for kind in kinds), *ours)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what changed."""
    return [name for name in before if before[name] != after[name]]
