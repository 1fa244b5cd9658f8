"""A table is alike with and without cells, and a cell is its key's alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechicl.results import Cells
from mechicl.studies import load_result
from mechicl.studies.study import Study
from tests import tiny
from tests.contract import catalogue
from tests.studies.killed import STUDY, run_and_save


def check_alike(found: pd.DataFrame, made: pd.DataFrame) -> None:
    """The same numbers, and the same types of what columns hold: lists are no arrays."""
    pd.testing.assert_frame_equal(found, made)
    for column in made.columns:
        assert [type(value) for value in found[column]] == [type(value) for value in made[column]], column


class Compared(Cells):
    """Cells that see that what is read is what was measured."""

    kept = 0

    def keep(self, key: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        found = super().keep(key, table)
        check_alike(found, table)
        self.kept += 1
        return found


def of_name(name: str) -> Study:
    return next(study for study in catalogue.studies() if study.name == name)


@pytest.mark.parametrize("name", [study.name for study in catalogue.studies()])
def test_a_table_is_alike_with_and_without_cells_and_after_it_was_saved(name: str, tmp_path: Path) -> None:
    study, model, cells = of_name(name), tiny.model("gpt2"), Compared(tmp_path)
    material = catalogue.studied(study)
    result = study.run(model, material, batch_size=2, cells=cells)
    assert cells.kept
    check_alike(study.run(model, material, batch_size=2, cells=cells).table, result.table)
    result.save(tmp_path)
    check_alike(load_result(tmp_path, name).table, result.table)


def test_lists_within_lists_and_missing_ones_come_back(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"lists": [[1, 2], [], None], "deep": [[[0.5], [1.0, 2.0]], [[]], [[3.0]]], "text": ["a", "b", None]}
    )
    check_alike(Cells(tmp_path).keep({}, table), table)


def test_cells_that_were_swapped_are_made_anew_and_nothing_is_lost(tmp_path: Path) -> None:
    """Each has the other's key in its name, with the right digest of its content."""
    cells, tables = Cells(tmp_path), [pd.DataFrame({"x": [float(i)]}) for i in range(2)]
    for i in range(2):
        cells.keep({"k": i}, tables[i])
    first, second = sorted(cells.folder.iterdir())
    names = [path.name.split(".") for path in (first, second)]
    swapped = [f"{names[1][0]}.{names[0][1]}.parquet", f"{names[0][0]}.{names[1][1]}.parquet"]
    os.replace(first, tmp_path / "aside")
    os.replace(second, cells.folder / swapped[1])
    os.replace(tmp_path / "aside", cells.folder / swapped[0])
    assert cells.find({"k": 0}) is None, "it is the other's"
    for i in range(2):
        found = cells.find({"k": i})
        if found is None:
            found = cells.keep({"k": i}, tables[i])
        pd.testing.assert_frame_equal(found, tables[i])
    assert len(list(cells.folder.iterdir())) == 2


def test_a_table_that_is_no_cell_is_never_read_as_one(tmp_path: Path) -> None:
    from mechicl.results import _parquet, _sha256

    cells = Cells(tmp_path)
    cells.keep({"k": 0}, pd.DataFrame({"x": [0.0]}))
    (path,) = cells.folder.iterdir()
    foreign = _parquet(pd.DataFrame({"x": [9.0]}))
    path.rename(path.with_name(f"{path.name.split('.')[0]}.{_sha256(foreign)[:16]}.parquet")).write_bytes(foreign)
    assert cells.find({"k": 0}) is None
    assert list(cells.folder.iterdir()) == []


def test_a_study_that_resumes_among_swapped_cells_measures_as_before(tmp_path: Path) -> None:
    table = run_and_save(tmp_path)
    paths = sorted((tmp_path / "cells").iterdir())
    keys, contents = zip(*(path.name.split(".")[:2] for path in paths), strict=True)
    payloads = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    for key, content, payload in zip(keys, contents[1:] + contents[:1], payloads[1:] + payloads[:1], strict=True):
        (tmp_path / "cells" / f"{key}.{content}.parquet").write_bytes(payload)
    pd.testing.assert_frame_equal(run_and_save(tmp_path), table)
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == [path.name for path in paths]
    pd.testing.assert_frame_equal(load_result(tmp_path, STUDY.name).table, table)
