"""What can be changed in a pass; a file each."""

from mechicl.patches.cut_words import CutWords
from mechicl.patches.fix_neurons import FixNeurons
from mechicl.patches.isolate import (
    IsolateLabels,
    IsolatePositions,
    IsolateRandom,
    IsolateTemplate,
    first_layers,
    isolation_mask,
    last_layers,
    random_pool,
)
from mechicl.patches.lesions import Drop, DropAttention, DropMany, DropMLP, Lesion, Reorder, Repeat, Replace, Step, Swap
from mechicl.patches.reweight import ReweightAnchors

__all__ = [
    "CutWords", "Drop", "DropAttention", "DropMLP", "DropMany", "FixNeurons", "IsolateLabels", "IsolatePositions",
    "IsolateRandom", "IsolateTemplate", "Lesion", "Reorder", "Repeat", "Replace", "ReweightAnchors", "Step", "Swap",
    "first_layers", "isolation_mask", "last_layers", "random_pool",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
