"""Every study on tiny-icl gives one table on HookedTransformer, the Bridge of TransformerLens 3.9 and that of 4.

With 4 the other side is a HookedTransformer of 3.9, in another process. A few studies every day, all with
MECHICL_MATRIX or --slow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mechicl as mi
from mechicl.studies import STUDIES
from mechicl.studies.study import Study
from tests import tiny
from tests.contract import alike, catalogue
from tests.tables import assert_same_tables

FEW = ("isolation", "compression", "layer-lesions", "logit-lens", "local-attention", "norms", "cka", "neurons")
CLOCKS = {"compression-speed": ["seconds", "caching_seconds"]}
ROUNDED = {
    "information-flow": 4.0,
    "deep-layers": 2.0,
    "lesioned-icl": 4.0,
    "word-merging": 4.0,
    "entropy-neurons": 2.5,
    "decision-layer": 3.5,
    "anchor-heads": 3.5,
    "isolation": 4.0,
}
"""Times what is allowed; 1.3, 1.1, 1.0, 1.6, 1.8, 2.9, 2.8 (means over single edges) and 3.5 (where random edges are cut, and rows see little but
themselves; 0.003 elsewhere) were measured: TransformerLens and Hugging Face round rotary angles differently (by 1e-7 of
an angle), attention hence by 1e-6, and a KL of 1e-3 nats is a sum of terms of size 1. On another processor the first, third
and fourth were 3.2, 3.4 and 3.5.
"""


def chosen() -> list[Any]:
    whole = bool(os.environ.get("MECHICL_MATRIX"))
    names = [name for name in STUDIES if name not in (*catalogue.WANTS_WORDS, "joiner-ablation")]  # too few words
    return [name if whole or name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def bridge() -> Any:
    return mi.load_model("tiny-icl", backend="bridge")


@pytest.fixture(scope="module")
def hooked() -> Any:
    return mi.load_model("tiny-icl", backend="hooked") if tiny.HOOKED else None


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    return {study.name: study for study in catalogue.studies()}


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
    name: str, bridge: Any, hooked: Any, studies: dict[str, Study], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = tmp_path / "ours.parquet"
    alike.table("tiny-icl", bridge, studies[name]).to_parquet(path)  # lists become arrays in a file
    ours = pd.read_parquet(path)
    if hooked is None:
        theirs = pd.read_parquet(request.getfixturevalue("of_3_9") / f"{name}.parquet")
    else:
        alike.table("tiny-icl", hooked, studies[name]).to_parquet(path)
        theirs = pd.read_parquet(path)
    for clock in CLOCKS.get(name, []):
        assert (ours.pop(clock) >= 0).all()
        assert (theirs.pop(clock) >= 0).all()
    if name == "reweighting":
        same_fits(ours.pop("fit"), theirs.pop("fit"))
    if name == "information-flow":
        ours, theirs = trained(ours), trained(theirs)
    assert_same_tables(ours, theirs, ROUNDED.get(name, 1.0))


def same_fits(ours: pd.Series[Any], theirs: pd.Series[Any]) -> None:
    """The same betas; what they were fitted to is known by other digests."""
    fitted = ours.notna()
    assert fitted.equals(theirs.notna())
    assert fitted.any()
    for one, other in zip(map(json.loads, ours[fitted]), map(json.loads, theirs[fitted]), strict=True):
        for digest in ("weight_digest", "origin_digest"):
            one["about"].pop(digest), other["about"].pop(digest)
        np.testing.assert_allclose(one.pop("beta"), other.pop("beta"), rtol=1e-5, atol=1e-6)
        assert one == other


def trained(table: pd.DataFrame) -> pd.DataFrame:
    """Without the untrained twins: an initialisation of its own gives each class another draw of the null."""
    twins = table[table["weights"] != "as given"]
    assert np.isfinite(twins["S_wp"]).all()
    assert len(twins)
    return table[table["weights"] == "as given"].reset_index(drop=True)
