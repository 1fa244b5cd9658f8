"""The experiments; a file each, to be read from top to bottom beside the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechicl.errors import InputError
from mechicl.results import Result, load_table
from mechicl.studies.label_words import (
    AnchorSweep,
    Compression,
    DeepLayers,
    ErrorDiagnosis,
    InformationFlow,
    Isolation,
    Reweighting,
)
from mechicl.studies.stages import (
    Atlas,
    LensStudy,
    LesionedLearning,
    Lesions,
    LocalAttentionStudy,
    NeuronsStudy,
    NormsStudy,
    WordMerging,
)
from mechicl.studies.study import Study

STUDIES: dict[str, type[Study]] = {
    study.name: study
    for study in (
        InformationFlow,
        Isolation,
        DeepLayers,
        Compression,
        Reweighting,
        ErrorDiagnosis,
        AnchorSweep,
        Lesions,
        LocalAttentionStudy,
        LensStudy,
        WordMerging,
        NeuronsStudy,
        NormsStudy,
        Atlas,
        LesionedLearning,
    )
}


def load_result(folder: str | Path, name: str) -> Result:
    """A result that was saved in a folder, with its study's switches as they were.

    Raises:
        InputError: no such study, nothing saved, or a table that does not belong to its provenance.
    """
    if name not in STUDIES:
        raise InputError(f"There is no study {name!r}; the studies are {', '.join(STUDIES)}.")
    table, provenance = load_table(folder, name)
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in provenance["settings"].items()}
    return Result(STUDIES[name](**settings), table, provenance)


def saved_results(folder: str | Path) -> list[Result]:
    """Every result saved in a folder, in the order of the papers."""
    return [load_result(folder, name) for name in STUDIES if (Path(folder) / f"{name}.json").exists()]
