"""Look inside language models while they learn in context.

    import mechicl as mi

    model = mi.load_model("tiny-icl")  # or "smollm2-135m-q4", "gpt2-xl", a folder, a GGUF file
    task = mi.load_task("tiny-topics-4")
    prompts = task.prompts(model.tokenizer, shots=1, samples=64, seed=42, demonstrations="per_prompt")

    mi.information_flow(model, prompts)  # a study: table, figure, provenance
    mi.run(model, prompts, probes=[mi.probes.LabelAttention()], patches=[mi.patches.Drop(3)])
    mi.scan(model, prompts[0])  # a first look at one prompt, layer by layer
    mi.explore(model, prompts[0])  # one prompt, interactively

Load what you need:   load_model, load_task, load_corpus, load_result, load_studies
Run it:               run, scan, explore
Studies:              information_flow, isolation, reweighting, layer_lesions, logit_lens, stages_atlas;
                      every other one, and your own: mi.studies
Data types:           Task, Prompt, PromptSet, TokenCorpus, Reading, Result
Write your own:       Probe, Patch, Watch, Study
Errors:               InputError, NumericalError

mi.probes    what reads a pass            mi.engines   exact shortcuts: shared prefixes, contexts, fits
mi.patches   what changes it              mi.models    the adapter, for a model class of your own
mi.studies   every study                  mi.tasks     where examples come from; benchmarks
mi.metrics   pure functions of tensors    mi.corpora   running text; pairs of sentences
"""
# Names are loaded on first use, so that `import mechicl` and `mechicl --help` stay fast.

from __future__ import annotations

from importlib import import_module
from typing import Any

from mechicl import renamed

__version__ = "0.2.0"
NAMESPACES = ("corpora", "engines", "metrics", "models", "patches", "probes", "studies", "tasks")
_NAMES = {
    "mechicl.corpora": ("TokenCorpus", "load_corpus"),
    "mechicl.errors": ("InputError", "NumericalError"),
    "mechicl.explorer": ("explore", "scan"),
    "mechicl.hooks": ("Patch", "Probe", "Watch", "run"),
    "mechicl.models": ("load_model",),
    "mechicl.prompts": ("Prompt", "PromptSet"),
    "mechicl.readings": ("Reading",),
    "mechicl.results": ("Result",),
    "mechicl.studies": (
        "Study", "information_flow", "isolation", "layer_lesions", "load_result", "load_studies", "logit_lens",
        "reweighting", "stages_atlas",
    ),
    "mechicl.tasks": ("Task", "load_task"),
}  # fmt: skip
HOME = {name: module for module, names in _NAMES.items() for name in names}
"""The module of every name."""

__all__ = sorted([*HOME, *NAMESPACES])  # pyright: ignore


def __getattr__(name: str) -> Any:
    if name in NAMESPACES:
        return import_module(f"mechicl.{name}")
    if name in HOME:
        globals()[name] = value = getattr(import_module(HOME[name]), name)
        return value
    return renamed.look_up(__name__, name)


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__version__"]
