"""mechicl: look inside language models while they learn in context.

Names are loaded on first use, so that `import mechicl` and `mechicl --help` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechicl.corpora import load_corpus as load_corpus
    from mechicl.corpora import load_word_pairs as load_word_pairs
    from mechicl.engines.compression import compress as compress
    from mechicl.engines.context import Context as Context
    from mechicl.engines.context import read_context as read_context
    from mechicl.engines.prefix import run_shared as run_shared
    from mechicl.engines.reweighting import fit_reweighting as fit_reweighting
    from mechicl.engines.tuned_lens import fit_tuned_lens as fit_tuned_lens
    from mechicl.engines.wavefront import lesion_sweep as lesion_sweep
    from mechicl.errors import InputError as InputError
    from mechicl.errors import NumericalError as NumericalError
    from mechicl.explorer import Explorer as Explorer
    from mechicl.explorer import explore as explore
    from mechicl.hooks import Patch as Patch
    from mechicl.hooks import Probe as Probe
    from mechicl.hooks import Watch as Watch
    from mechicl.hooks import run as run
    from mechicl.models import load_model as load_model
    from mechicl.objectives import Objective as Objective
    from mechicl.patches import CutWords as CutWords
    from mechicl.patches import Drop as Drop
    from mechicl.patches import DropAttention as DropAttention
    from mechicl.patches import DropMany as DropMany
    from mechicl.patches import DropMLP as DropMLP
    from mechicl.patches import FixNeurons as FixNeurons
    from mechicl.patches import IsolateLabels as IsolateLabels
    from mechicl.patches import IsolatePositions as IsolatePositions
    from mechicl.patches import IsolateRandom as IsolateRandom
    from mechicl.patches import IsolateTemplate as IsolateTemplate
    from mechicl.patches import Reorder as Reorder
    from mechicl.patches import Repeat as Repeat
    from mechicl.patches import Replace as Replace
    from mechicl.patches import ReweightAnchors as ReweightAnchors
    from mechicl.patches import Swap as Swap
    from mechicl.probes import HeadSaliency as HeadSaliency
    from mechicl.probes import LabelAttention as LabelAttention
    from mechicl.probes import LastResidual as LastResidual
    from mechicl.probes import LensTokens as LensTokens
    from mechicl.probes import LocalAttention as LocalAttention
    from mechicl.probes import LogitLens as LogitLens
    from mechicl.probes import Norms as Norms
    from mechicl.probes import SaliencyFlow as SaliencyFlow
    from mechicl.probes import SaliencyMap as SaliencyMap
    from mechicl.probes import TopTokens as TopTokens
    from mechicl.probes import TunedLens as TunedLens
    from mechicl.studies import load_result as load_result
    from mechicl.studies.label_words.anchor_kinds import anchor_kinds as anchor_kinds
    from mechicl.studies.label_words.anchor_sweep import anchor_sweep as anchor_sweep
    from mechicl.studies.label_words.compression import compression as compression
    from mechicl.studies.label_words.compression_speed import CompressionSpeed as CompressionSpeed
    from mechicl.studies.label_words.compression_speed import compression_speed as compression_speed
    from mechicl.studies.label_words.deep_layers import deep_layers as deep_layers
    from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis as ErrorDiagnosis
    from mechicl.studies.label_words.error_diagnosis import error_diagnosis as error_diagnosis
    from mechicl.studies.label_words.information_flow import information_flow as information_flow
    from mechicl.studies.label_words.isolation import isolation as isolation
    from mechicl.studies.label_words.isolation import isolation_examples as isolation_examples
    from mechicl.studies.label_words.reweighting import Reweighting as Reweighting
    from mechicl.studies.label_words.reweighting import reweighting as reweighting
    from mechicl.studies.label_words.saliency_map import saliency_figure as saliency_figure
    from mechicl.studies.label_words.saliency_map import saliency_map as saliency_map
    from mechicl.studies.stages import compare_atlases as compare_atlases
    from mechicl.studies.stages import find_neurons as find_neurons
    from mechicl.studies.stages import layer_lesions as layer_lesions
    from mechicl.studies.stages import lesioned_icl as lesioned_icl
    from mechicl.studies.stages import logit_lens as logit_lens
    from mechicl.studies.stages import neuron_tokens as neuron_tokens
    from mechicl.studies.stages import stages_atlas as stages_atlas
    from mechicl.studies.stages.benchmarks import benchmarks as benchmarks
    from mechicl.studies.stages.cka import cka as cka
    from mechicl.studies.stages.entropy_neurons import entropy_neurons as entropy_neurons
    from mechicl.studies.stages.in_context_atlas import in_context_atlas as in_context_atlas
    from mechicl.studies.stages.local_attention import local_attention as local_attention
    from mechicl.studies.stages.many_lesions import many_lesions as many_lesions
    from mechicl.studies.stages.neurons import neurons as neurons
    from mechicl.studies.stages.norms import norms as norms
    from mechicl.studies.stages.token_lesions import token_lesions as token_lesions
    from mechicl.studies.stages.voting import voting as voting
    from mechicl.studies.stages.wic import wic as wic
    from mechicl.studies.stages.word_identity import word_identity as word_identity
    from mechicl.studies.stages.word_merging import word_merging as word_merging
    from mechicl.tasks import Task as Task
    from mechicl.tasks import load_benchmarks as load_benchmarks
    from mechicl.tasks import load_task as load_task

_HOME = {
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
    "mechicl.objectives": ("Objective",),
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
    "mechicl.studies": ("load_result",),
    "mechicl.studies.label_words": (
        "ErrorDiagnosis",
        "Reweighting",
        "anchor_kinds",
        "anchor_sweep",
        "CompressionSpeed",
        "compression",
        "compression_speed",
        "deep_layers",
        "error_diagnosis",
        "information_flow",
        "isolation",
        "isolation_examples",
        "reweighting",
        "saliency_figure",
        "saliency_map",
    ),
    "mechicl.studies.stages": (
        "benchmarks",
        "cka",
        "compare_atlases",
        "entropy_neurons",
        "in_context_atlas",
        "find_neurons",
        "layer_lesions",
        "lesioned_icl",
        "local_attention",
        "logit_lens",
        "many_lesions",
        "neuron_tokens",
        "neurons",
        "norms",
        "stages_atlas",
        "token_lesions",
        "voting",
        "wic",
        "word_identity",
        "word_merging",
    ),
    "mechicl.tasks": ("Task", "load_benchmarks", "load_task"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mechicl' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
