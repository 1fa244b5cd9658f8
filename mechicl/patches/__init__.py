"""What can be changed in a pass; a file each."""

from mechicl.patches.drop import DropLayer
from mechicl.patches.isolate import (
    IsolateLabels,
    IsolatePositions,
    IsolateRandom,
    first_layers,
    isolation_mask,
    last_layers,
    random_pool,
)

__all__ = [
    "DropLayer",
    "IsolateLabels",
    "IsolatePositions",
    "IsolateRandom",
    "first_layers",
    "isolation_mask",
    "last_layers",
    "random_pool",
]
