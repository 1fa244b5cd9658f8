"""The experiments; a file each, to be read from top to bottom beside the paper."""

from __future__ import annotations

import sys
import warnings
from difflib import get_close_matches
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from mechicl.declared import as_tuples, switches
from mechicl.errors import InputError, first_line
from mechicl.results import Result, load_table
from mechicl.studies.call import call_of
from mechicl.studies.study import STUDIES, Study

__all__ = ["STUDIES", "Study", "call_of", "load_result", "load_studies", "saved_results"]


def _import_all() -> None:
    """Import every study that comes with mechicl; each enters `STUDIES`, in the order of the papers."""
    for paper in ("label_words", "stages"):
        package = import_module(f"{__name__}.{paper}")
        before = set(STUDIES)
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
        added = [STUDIES.pop(name) for name in set(STUDIES) - before]
        STUDIES.update((study.name, study) for study in sorted(added, key=lambda study: (study.source, study.name)))


_import_all()


def __getattr__(name: str) -> Any:
    for study in STUDIES.values():
        if study.__name__ == name:
            return study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_studies(path: str | Path) -> list[type[Study]]:
    """Run a file of Python that defines studies; those that it adds.

    Raises:
        InputError: it cannot be read, it fails, or no study is in it.
    """
    path = Path(path).resolve()
    before = dict(STUDIES)
    name = f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"  # of a name that no library has
    spec = spec_from_file_location(name, path) if path.suffix == ".py" and path.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no file of Python; give the file that defines your studies, such as study.py.")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and source code are looked up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # what lies beside it can be imported
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        STUDIES.clear()
        STUDIES.update(before)
        del sys.modules[spec.name]
        if isinstance(error, InputError):
            raise
        said = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{path} cannot be run ({said}); mend it and try again.") from error
    added = [study for name, study in STUDIES.items() if before.get(name) is not study]
    if not added:
        raise InputError(f"{path} defines no study; subclass mechicl.studies.Study, with a name, in it.")
    for study in added:
        if lacking := sorted(getattr(study, "__abstractmethods__", ())):
            raise InputError(f"The study {study.name} in {path} lacks {', '.join(lacking)}; write these methods.")
    return added


def load_result(folder: str | Path, name: str) -> Result:
    """A result that was saved in a folder, with its study's switches as they were.

    Raises:
        InputError: no such study, nothing saved, a table that does not belong to its provenance, or one that another
            version wrote.
    """
    name = name if name in STUDIES else name.replace("_", "-")  # as it is called in Python
    if name not in STUDIES:
        near = get_close_matches(name, STUDIES, 1)
        hint = f"did you mean {near[0]}?" if near else "`mechicl list` names those that there are."
        raise InputError(
            f"There is no study {name!r}; {hint} One of your own is there once the file that defines it is imported "
            "(in commands: --studies FILE)."
        )
    table, provenance = load_table(folder, name)
    result = Result(_with_settings(STUDIES[name], provenance.get("settings"), folder), table, provenance)
    try:
        result.summary(), result.finding()
    except Exception as error:  # whatever pandas makes of columns that are missing or hold something else
        if not STUDIES[name].__module__.startswith("mechicl."):
            raise InputError(
                f"The study {name} fails on its table in {folder} ({type(error).__name__}: {first_line(error)}); mend "
                "its summary or finding, or run it again."
            ) from error
        raise InputError(
            f"The table of {name} in {folder} is not one of this version of mechicl: another version wrote it; run the "
            "study again."
        ) from error
    return result


def _with_settings(study: type[Study], settings: Any, folder: str | Path) -> Study:
    """A study with saved switches; one that there was not yet has its default."""
    if isinstance(settings, dict):
        values = {study.renamed.get(name, name): as_tuples(value) for name, value in settings.items()}
        known = {switch.name: switch for switch in switches(study)}
        if values.keys() <= known.keys() and all(known[name].accepts(value) for name, value in values.items()):
            return study(**values)
    raise InputError(f"The settings of {study.name} in {folder} are not this study's; run it again.")


def saved_results(folder: str | Path) -> list[Result]:
    """Every result saved in a folder, in the order of the papers; a damaged one is left out, with a warning.

    A result of a study that is not known here is left out too, with a warning that says how to make it known.
    """
    saved = [path.stem for path in sorted(Path(folder).glob("*.json")) if path.with_suffix(".parquet").exists()]
    results = []
    for name in sorted(saved, key=lambda name: list(STUDIES).index(name) if name in STUDIES else len(STUDIES)):
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
