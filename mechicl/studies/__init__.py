"""The experiments, one file each; read them from top to bottom next to the paper.

`mi.studies.NAME(model, ...)` runs a study, whether it comes with mechicl or is your own. Its class is here too, for
whatever a call does not cover: `mi.studies.Isolation(n_layers=(1,)).estimate(model, prompts)`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from mechicl import renamed
from mechicl.studies.call import call_of
from mechicl.studies.loading import load_result, load_studies, saved_results
from mechicl.studies.several import compare_models
from mechicl.studies.study import STUDIES, Study


def _import_all() -> None:
    """Import every study that comes with mechicl; each registers itself in `STUDIES`, in the order of the papers."""
    for paper in ("label_words", "stages", "extensions"):
        package = import_module(f"{__name__}.{paper}")
        before = set(STUDIES)
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
        added = [STUDIES.pop(name) for name in set(STUDIES) - before]
        STUDIES.update((study.name, study) for study in sorted(added, key=lambda study: (study.source, study.name)))


_import_all()

from mechicl.studies.label_words.isolation_examples import isolation_examples  # noqa: E402
from mechicl.studies.label_words.saliency_map import saliency_figure, saliency_map  # noqa: E402
from mechicl.studies.stages.atlas import compare_atlases  # noqa: E402
from mechicl.studies.stages.in_context_atlas import in_context_atlas  # noqa: E402
from mechicl.studies.stages.joined_atlas import joined_atlas  # noqa: E402
from mechicl.studies.stages.voters import find_neurons, neuron_tokens  # noqa: E402

__all__ = [
    "STUDIES", "Study", "compare_atlases", "compare_models", "find_neurons", "in_context_atlas", "isolation_examples",
    "joined_atlas", "load_result", "load_studies", "neuron_tokens", "saliency_figure", "saliency_map", "saved_results",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if (study := STUDIES.get(name.replace("_", "-"))) is not None:
        return call_of(study)
    for study in STUDIES.values():
        if study.__name__ == name:
            return study
    return renamed.look_up(__name__, name)


def __dir__() -> list[str]:
    studies = [name for study in STUDIES.values() for name in (study.name.replace("-", "_"), study.__name__)]
    return [*__all__, *studies]
