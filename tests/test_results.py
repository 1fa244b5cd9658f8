"""Results survive being killed, and a damaged file is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechicl.errors import InputError
from mechicl.files.writing import make_folder, write_atomically
from mechicl.results import Cells, Result, load_table


def test_a_finished_cell_is_found_again(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1.5, 2.0]})
    assert Cells(tmp_path).find({"seed": 42}) is None
    pd.testing.assert_frame_equal(Cells(tmp_path).keep({"seed": 42}, table), table)
    found = Cells(tmp_path).find({"seed": 42})
    assert found is not None
    pd.testing.assert_frame_equal(found, table)
    assert Cells(tmp_path).find({"seed": 43}) is None


@pytest.mark.parametrize("damage", [b"", b"not parquet", None])
def test_a_damaged_cell_is_as_if_it_were_not_there(tmp_path: Path, damage: bytes | None) -> None:
    cells = Cells(tmp_path)
    cells.keep({"k": 1}, pd.DataFrame({"x": [1, 2]}))
    (path,) = cells.folder.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-7] if damage is None else damage)
    assert cells.find({"k": 1}) is None
    assert list(cells.folder.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mechicl.files.writing.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_table_that_was_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the study first"):
        load_table(tmp_path, "isolation")
    (tmp_path / "isolation.parquet").write_bytes(b"x")
    for content, message in (("[]", "holds a list; expected an object"), ("{}", "not a result's provenance")):
        (tmp_path / "isolation.json").write_text(content)
        with pytest.raises(InputError, match=message):
            load_table(tmp_path, "isolation")
    (tmp_path / "isolation.json").write_text('{"table_sha256": "0", "provenance": {}}')
    with pytest.raises(InputError, match="not the table that its provenance describes"):
        load_table(tmp_path, "isolation")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        make_folder(tmp_path / "f" / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda summary: summary, None),
        (
            lambda summary: summary.drop(columns=["low", "n"]),
            "summary of mine lacks the columns low, n; give it model, ",
        ),
        (lambda summary: summary.assign(mean="much"), "summary of mine has words in mean; give numbers"),
        (lambda summary: summary.iloc[:0], "summary of mine has no row"),
    ],
)
def test_a_summary_is_checked(change: Any, said: str | None) -> None:
    right = {"model": ["a"], "metric": ["b"], "mean": [0.5], "low": [float("nan")], "high": [1], "n": [3]}

    class Mine:
        name = "mine"

        def summary(self, table: pd.DataFrame) -> Any:
            return change(table)

    study: Any = Mine()
    result = Result(study, pd.DataFrame(right), {})
    if said is None:
        pd.testing.assert_frame_equal(result.summary(), result.table)
    else:
        with pytest.raises(InputError, match=said):
            result.summary()
