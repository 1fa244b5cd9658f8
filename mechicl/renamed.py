"""Old names: each works until mechicl 0.3, with a DeprecationWarning that says the new one.

To rename a name of a module, add it to `RENAMED` under its old place; the module needs `def __getattr__(name): return
renamed.look_up(__name__, name)`. A base class takes over members that a subclass still has under an old name by
`member`.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any

_LEFT_THE_TOP = {
    "mechicl.corpora": "load_word_pairs",
    "mechicl.engines": "Context compress fit_reweighting fit_tuned_lens lesion_sweep read_context run_shared",
    "mechicl.explorer": "Explorer",
    "mechicl.metrics": "Objective",
    "mechicl.patches": (
        "CutWords Drop DropAttention DropMLP DropMany FixNeurons IsolateLabels IsolatePositions IsolateRandom "
        "IsolateTemplate Reorder Repeat Replace ReweightAnchors Swap"
    ),
    "mechicl.probes": (
        "HeadSaliency LabelAttention LastResidual LensTokens LocalAttention LogitLens Norms SaliencyFlow SaliencyMap "
        "TopTokens TunedLens"
    ),
    "mechicl.studies": (
        "CompressionSpeed ErrorDiagnosis Reweighting anchor_kinds anchor_sweep benchmarks cka compare_atlases "
        "compression compression_speed deep_layers entropy_neurons error_diagnosis find_neurons in_context_atlas "
        "isolation_examples lesioned_icl local_attention many_lesions neuron_tokens neurons norms saliency_figure "
        "saliency_map token_lesions voting wic word_identity word_merging"
    ),
    "mechicl.tasks": "load_benchmarks",
}
RENAMED: dict[str, str] = {
    f"mechicl.{name}": f"{module}.{name}" for module, names in _LEFT_THE_TOP.items() for name in names.split()
}
RENAMED |= {
    "mechicl.hooks.Place": "mechicl.hooks.Scope",
    "mechicl.patches.Lesion": "mechicl.hooks.Patch",
    "mechicl.prompts.Rows": "mechicl.prompts.PromptRows",
}
"""The old place of a name, including the module, and the new one."""


def look_up(module: str, name: str) -> Any:
    """The object with an old name in a module, for its `__getattr__`.

    Raises:
        AttributeError: there was no such name.
    """
    old = f"{module}.{name}"
    if old not in RENAMED:
        raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name, obj=sys.modules[module])
    new = RENAMED[old]
    while new in RENAMED:  # renamed once more
        new = RENAMED[new]
    _warn(old, new, 3)
    home, _, attribute = new.rpartition(".")
    return getattr(import_module(home), attribute)


def member(kind: type, old: str, new: str) -> None:
    """Take over a member that a user's class still has under an old name."""
    if old in vars(kind) and new not in vars(kind):
        _warn(f"{kind.__name__}.{old}", new, 4)  # through __init_subclass__ and the metaclass
        setattr(kind, new, vars(kind)[old])


def _warn(old: str, new: str, depth: int) -> None:
    """Warn the user of the old name, this many calls above."""
    message = f"{old} is now {new}; the old name works until mechicl 0.3."
    warnings.warn(message, DeprecationWarning, stacklevel=depth + 1)
