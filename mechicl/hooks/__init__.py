"""What is read from a forward pass and what is changed in it, and the loop that does both."""

from mechicl.hooks.parts import (
    Batch,
    HookError,
    Patch,
    Place,
    Probe,
    Watch,
    count_firings,
    neurons_by_layer,
    watch_layers,
    watch_points,
)
from mechicl.hooks.running import Run, run, sweep, target_pass
from mechicl.models import Hook

__all__ = [
    "Batch", "Hook", "HookError", "Patch", "Place", "Probe", "Run", "Watch", "count_firings",
    "neurons_by_layer", "run", "sweep", "target_pass", "watch_layers", "watch_points",
]  # fmt: skip
