"""Studies from a user's file, and results from a folder."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mechicl.declared import as_tuples, switches
from mechicl.doors import door
from mechicl.errors import InputError, first_line, one_sentence
from mechicl.results import Result, load_table
from mechicl.studies.several import explained
from mechicl.studies.study import STUDIES, Study


@door
def load_studies(path: str | Path) -> list[type[Study]]:
    """Run a Python file that defines studies, and return those that it adds; a rejected file adds none.

    Raises:
        InputError: the file cannot be read, it fails, it defines no study, or a study lacks a method.
    """
    with one_sentence(path):
        path = Path(path).resolve()
    name = f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"  # a name that no library uses
    spec = spec_from_file_location(name, path) if path.suffix == ".py" and path.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file; give the file that defines your studies, such as study.py.")
    studies, paths, earlier = dict(STUDIES), list(sys.path), sys.modules.get(name)
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and inspect look modules up here
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # so that modules next to the file can be imported
    try:
        spec.loader.exec_module(module)
        return _added(path, studies)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        STUDIES.clear()
        STUDIES.update(studies)
        sys.path[:] = paths
        del sys.modules[name]
        if earlier is not None:
            sys.modules[name] = earlier
        if isinstance(error, InputError):
            raise
        message = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{path} cannot be run ({message}); correct it and try again.") from error


def _added(path: Path, before: Mapping[str, type[Study]]) -> list[type[Study]]:
    """The studies that a file has added, checked for completeness."""
    added = [study for name, study in STUDIES.items() if before.get(name) is not study]
    if not added:
        raise InputError(f"{path} defines no study; subclass mechicl.Study, with a name, in it.")
    for study in added:
        if missing := sorted(getattr(study, "__abstractmethods__", ())):
            raise InputError(f"The study {study.name} in {path} lacks {', '.join(missing)}; write these methods.")
    return added


@door
def load_result(folder: str | Path, name: str | None = None) -> Result:
    """Load a saved result, with the switches that its study had.

    Args:
        folder: the folder of the result.
        name: the name of its study; optional if the folder holds one result.

    Raises:
        InputError: no such study, nothing saved, several results and no name, a table that does not belong to its
            provenance, or one that another version wrote.
    """
    if name is None:
        names = _saved(folder)
        if len(names) != 1:
            several = f"holds the results of {', '.join(names)}; name one" if names else "holds no result; run a study"
            raise InputError(f"{folder} {several}.")
        name = names[0]
    name = name if name in STUDIES else name.replace("_", "-")  # its name in Python
    if name not in STUDIES:
        near = get_close_matches(name, STUDIES, 1)
        hint = f"did you mean {near[0]}?" if near else "`mechicl list` lists all studies."
        raise InputError(
            f"There is no study {name!r}; {hint} To load a study of your own, import its file first (in commands: "
            "--studies FILE)."
        )
    table, provenance = load_table(folder, name)
    result = explained(Result(_with_settings(STUDIES[name], provenance.get("settings"), folder), table, provenance))
    try:
        result.summary(), result.finding(), result.details()
    except Exception as error:  # whatever pandas raises for missing or unexpected columns
        if not STUDIES[name].__module__.startswith("mechicl."):
            raise InputError(
                f"The study {name} fails on its table in {folder} ({type(error).__name__}: {first_line(error)}); fix "
                "its summary, finding, details or evidence, or run it again."
            ) from error
        raise InputError(
            f"Another version of mechicl wrote the table of {name} in {folder}; run the study again."
        ) from error
    return result


def _with_settings(study: type[Study], settings: Any, folder: str | Path) -> Study:
    """A study with its saved switches; a switch added since has its default."""
    if isinstance(settings, dict):
        values = {study.renamed.get(name, name): as_tuples(value) for name, value in settings.items()}
        known = {switch.name: switch for switch in switches(study)}
        if values.keys() <= known.keys() and all(known[name].accepts(value) for name, value in values.items()):
            return study(**values)
    raise InputError(f"The settings of {study.name} in {folder} are not this study's; run it again.")


def saved_results(folder: str | Path, *, known: Mapping[str, Result] = MappingProxyType({})) -> list[Result]:
    """Every result saved in a folder, in the order of the papers; a damaged one is left out, with a warning.

    A result of an unknown study is left out too, with a warning that says how to load that study.

    Args:
        known: results by name that were just saved there; they are not read again.
    """
    results = []
    for name in _saved(folder):
        if name in known:
            results.append(known[name])
            continue
        if name not in STUDIES:
            warnings.warn(
                f"{name} in {folder} is left out, because no study of that name is known here; if it is your own, name "
                "the file that defines it with --studies.", stacklevel=2,
            )  # fmt: skip
            continue
        try:
            results.append(load_result(folder, name))
        except InputError as error:
            warnings.warn(str(error), stacklevel=2)
    return results


def _saved(folder: str | Path) -> list[str]:
    """Names of the studies that have results in a folder, in the order of the papers."""
    names = [path.stem for path in sorted(Path(folder).glob("*.json")) if path.with_suffix(".parquet").exists()]
    return sorted(names, key=lambda name: list(STUDIES).index(name) if name in STUDIES else len(STUDIES))
