"""Probes read from a forward pass, patches change it, and `run` is the loop that applies both."""

from typing import Any

from mechicl import renamed
from mechicl.hooks.layers import as_layers, heads_by_layer, layer_of, neurons_by_layer, resolved_layers
from mechicl.hooks.parts import (
    Batch,
    HookByName,
    HookError,
    OrderAlone,
    Pass,
    Patch,
    Probe,
    Scope,
    Watch,
    watch_layers,
    watch_points,
)
from mechicl.hooks.running import Run, run, sweep, target_pass
from mechicl.models import Hook

__all__ = [
    "Batch",
    "Hook",
    "HookByName",
    "HookError",
    "OrderAlone",
    "Pass",
    "Patch",
    "Probe",
    "Run",
    "Scope",
    "Watch",
    "as_layers",
    "heads_by_layer",
    "layer_of",
    "neurons_by_layer",
    "resolved_layers",
    "run",
    "sweep",
    "target_pass",
    "watch_layers",
    "watch_points",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    return renamed.look_up(__name__, name)
