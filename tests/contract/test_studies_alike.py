"""Every study on tiny-icl gives one table on HookedTransformer, the Bridge of TransformerLens 3.9 and that of 4.

With 4 the other side is a HookedTransformer of 3.9, in another process. A few studies every day, all with
MECHICL_MATRIX or --slow.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechicl.studies.study import Study
from tests import tiny
from tests.contract import alike
from tests.tables import assert_same_tables

FEW = ("isolation", "compression", "layer-lesions", "logit-lens", "local-attention", "norms", "cka", "neurons")


def chosen() -> list[Any]:
    whole = bool(os.environ.get("MECHICL_MATRIX"))
    names = [study.name for study in alike.studies("tiny-icl")]
    return [name if whole or name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    return {study.name: study for study in alike.studies("tiny-icl")}


@pytest.fixture(scope="module")
def of_3_9(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a HookedTransformer, by the TransformerLens behind the one that PYTHONPATH puts first."""
    folder: Path = tmp_path_factory.mktemp("tables")
    wanted = {item.callspec.params["name"] for item in request.session.items if hasattr(item, "callspec")
              and item.path == request.path and not item.get_closest_marker("skip")}  # fmt: skip
    command = [sys.executable, "-m", "tests.contract.alike", "tiny-icl", str(folder), "--studies", *sorted(wanted)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, "--backend", "hooked"], env=environment, capture_output=True, text=True)
    if "has no HookedTransformer" in done.stderr:
        pytest.skip("there is no TransformerLens 3.9 here to compare with")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", chosen())
def test_a_study_gives_one_table(
    name: str, studies: dict[str, Study], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def measured(backend: str) -> pd.DataFrame:
        model = alike.loaded("tiny-icl", backend, alike.dtype_of(studies[name]))
        alike.table("tiny-icl", model, studies[name]).to_parquet(path := tmp_path / f"{backend}.parquet")
        return pd.read_parquet(path)  # lists become arrays in a file

    folder = None if tiny.HOOKED else request.getfixturevalue("of_3_9")
    theirs = measured("hooked") if folder is None else pd.read_parquet(folder / f"{name}.parquet")
    ours, theirs = (alike.comparable(name, table) for table in (measured("bridge"), theirs))
    assert len(ours)
    assert_same_tables(ours, theirs, 0.01 if name in alike.EXACTLY else 1.0)
