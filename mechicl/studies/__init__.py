"""The experiments; a file each, to be read from top to bottom beside the paper."""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from mechicl.errors import InputError
from mechicl.results import Result, load_table
from mechicl.saved import fits
from mechicl.studies.label_words import (
    AnchorKinds,
    AnchorSweep,
    Compression,
    CompressionSpeed,
    DeepLayers,
    ErrorDiagnosis,
    InformationFlow,
    Isolation,
    Reweighting,
)
from mechicl.studies.stages import (
    Atlas,
    Cka,
    EntropyNeurons,
    LensStudy,
    LesionedBenchmarks,
    LesionedLearning,
    Lesions,
    LocalAttentionStudy,
    ManyLesions,
    NeuronsStudy,
    NormsStudy,
    TokenLesions,
    Voting,
    Wic,
    WordIdentity,
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
        CompressionSpeed,
        Reweighting,
        ErrorDiagnosis,
        AnchorKinds,
        AnchorSweep,
        Lesions,
        TokenLesions,
        ManyLesions,
        LesionedBenchmarks,
        LocalAttentionStudy,
        LensStudy,
        WordMerging,
        WordIdentity,
        NeuronsStudy,
        EntropyNeurons,
        Voting,
        NormsStudy,
        Cka,
        Wic,
        Atlas,
        LesionedLearning,
    )
}


def load_result(folder: str | Path, name: str) -> Result:
    """A result that was saved in a folder, with its study's switches as they were.

    Raises:
        InputError: no such study, nothing saved, a table that does not belong to its provenance, or one that another
            version wrote.
    """
    if name not in STUDIES:
        raise InputError(f"There is no study {name!r}; the studies are {', '.join(STUDIES)}.")
    table, provenance = load_table(folder, name)
    result = Result(_with_settings(STUDIES[name], provenance.get("settings"), folder), table, provenance)
    try:
        result.summary(), result.finding()
    except Exception as error:  # whatever pandas makes of columns that are missing or hold something else
        raise InputError(
            f"The table of {name} in {folder} is not one of this version of mechicl: another version wrote it; run the "
            "study again."
        ) from error
    return result


def _with_settings(study: type[Study], settings: Any, folder: str | Path) -> Study:
    """A study with saved switches, each of the type that its field says."""
    if isinstance(settings, dict):
        hints = get_type_hints(study)
        values = {name: _tuples(value) for name, value in settings.items()}
        whole = set(values) == {field.name for field in fields(study)}
        if whole and all(fits(value, hints[name]) for name, value in values.items()):
            return study(**values)
    raise InputError(f"The settings of {study.name} in {folder} are not this study's; run it again.")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def saved_results(folder: str | Path) -> list[Result]:
    """Every result saved in a folder, in the order of the papers; a damaged one is left out, with a warning."""
    results = []
    for name in STUDIES:
        if (Path(folder) / f"{name}.json").exists():
            try:
                results.append(load_result(folder, name))
            except InputError as error:
                warnings.warn(str(error), stacklevel=2)
    return results
