"""Patches change a forward pass; one file each."""

from typing import Any

from mechicl import renamed
from mechicl.patches.ablate_heads import AblateHeads, head_means
from mechicl.patches.ablate_parts import AblateParts, part_means
from mechicl.patches.apart import CutDemonstrations
from mechicl.patches.cut_edges import CutEdges, Mode
from mechicl.patches.cut_words import CutWords
from mechicl.patches.edit import Edit, Positions
from mechicl.patches.exchange import Exchange, exchange
from mechicl.patches.fix_neurons import FixNeurons, neuron_means
from mechicl.patches.isolate import (
    CutRandomEdges,
    IsolateLabels,
    IsolatePositions,
    IsolateRandom,
    IsolateTemplate,
    first_layers,
    isolation_mask,
    last_layers,
    random_pool,
)
from mechicl.patches.lesions import Drop, DropAttention, DropMany, DropMLP, Reorder, Repeat, Replace, Swap
from mechicl.patches.reweight import ReweightAnchors
from mechicl.patches.steer import Steer

__all__ = [
    "AblateHeads", "AblateParts", "CutDemonstrations", "CutEdges", "CutRandomEdges", "CutWords", "Drop",
    "DropAttention", "DropMLP", "DropMany", "Edit", "Exchange", "FixNeurons", "IsolateLabels", "IsolatePositions",
    "IsolateRandom", "IsolateTemplate", "Mode", "Positions", "Reorder", "Repeat", "Replace", "ReweightAnchors",
    "Steer", "Swap", "exchange", "first_layers", "head_means", "isolation_mask", "last_layers", "neuron_means",
    "part_means", "random_pool",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    return renamed.look_up(__name__, name)
