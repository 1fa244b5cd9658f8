"""mechicl: look inside language models while they learn in context.

Names are loaded on first use, so that `import mechicl` and `mechicl --help` stay fast.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from mechicl import declared

_NAMES = {
    "mechicl.corpora": ("load_corpus", "load_word_pairs"),
    "mechicl.engines.compression": ("compress",),
    "mechicl.engines.context": ("Context", "read_context"),
    "mechicl.engines.prefix": ("run_shared",),
    "mechicl.engines.reweighting": ("fit_reweighting",),
    "mechicl.engines.tuned_lens": ("fit_tuned_lens",),
    "mechicl.engines.wavefront": ("lesion_sweep",),
    "mechicl.errors": ("InputError", "NumericalError"),
    "mechicl.explorer": ("Explorer", "explore"),
    "mechicl.hooks": ("Patch", "Probe", "Watch", "run"),
    "mechicl.models": ("load_model",),
    "mechicl.metrics.objective": ("Objective",),
    "mechicl.patches": (
        "CutWords",
        "Drop",
        "DropAttention",
        "DropMLP",
        "DropMany",
        "FixNeurons",
        "IsolateLabels",
        "IsolatePositions",
        "IsolateRandom",
        "IsolateTemplate",
        "Reorder",
        "Repeat",
        "Replace",
        "ReweightAnchors",
        "Swap",
    ),
    "mechicl.probes": (
        "HeadSaliency",
        "LabelAttention",
        "LastResidual",
        "LensTokens",
        "LocalAttention",
        "LogitLens",
        "Norms",
        "SaliencyFlow",
        "SaliencyMap",
        "TopTokens",
        "TunedLens",
    ),
    "mechicl.studies": ("load_result", "load_studies"),
    "mechicl.studies.label_words.compression_speed": ("CompressionSpeed",),
    "mechicl.studies.label_words.error_diagnosis": ("ErrorDiagnosis",),
    "mechicl.studies.label_words.isolation": ("isolation_examples",),
    "mechicl.studies.label_words.reweighting": ("Reweighting",),
    "mechicl.studies.label_words.saliency_map": ("saliency_figure", "saliency_map"),
    "mechicl.studies.stages.atlas": ("compare_atlases",),
    "mechicl.studies.stages.in_context_atlas": ("in_context_atlas",),
    "mechicl.studies.stages.voters": ("find_neurons", "neuron_tokens"),
    "mechicl.tasks": ("Task", "load_benchmarks", "load_task"),
}
HOME = {name: module for module, names in _NAMES.items() for name in names}
"""The module of every name; the studies, which are called by their names, are declared in theirs."""

__all__ = sorted([*HOME, *(name.replace("-", "_") for name in declared.shipped())])  # pyright: ignore


def __getattr__(name: str) -> Any:
    if name in HOME:
        globals()[name] = value = getattr(import_module(HOME[name]), name)
        return value
    study = name.replace("_", "-")
    if study in declared.shipped() or "mechicl.studies" in sys.modules:
        studies = import_module("mechicl.studies")
        if study in studies.STUDIES:  # a user's own, too, once its file is imported
            return studies.call_of(studies.STUDIES[study])
    raise AttributeError(f"module 'mechicl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
