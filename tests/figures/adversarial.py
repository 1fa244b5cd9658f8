"""Results that figures break on, made of small ones: every study's table of a tiny model lies in tables/.

`python -m tests.figures.adversarial` measures the tables anew, on the model and the material of tests/contract.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from mechicl.results import Result
from mechicl.studies import compare_models, load_result

TABLES = Path(__file__).parent / "tables"
LAYERS, TASKS, MODELS = 48, 6, 4
NOT_BY_LAYER = ("one-prompt", "causal-stages", "entropy-neurons", "voting", "cka", "layer-lesions",
                "right-then-wrong")  # fmt: skip
"""Studies whose layers are chosen ones, bands or neurons, or whose tables are a matrix of layers."""

NEEDS_MORE = ("cka", "voting", "deep-layers", "word-merging")
"""Studies that draw nothing of a single prompt or sequence, and say so."""


@cache
def small(name: str) -> Result:
    return load_result(TABLES, name)


def _summarised(result: Result, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Result:
    """The same result with other means and intervals."""
    made = replace(result)
    vars(made)["_summary"] = change(result.summary())
    return made


def one_outlier(result: Result) -> Result:
    """One number of the summary a thousand times as large as any."""

    def change(summary: pd.DataFrame) -> pd.DataFrame:
        place = summary.index[summary["mean"].notna()][len(summary) // 2 - 1]
        summary.loc[place, ["mean", "low", "high"]] = 1000 * max(1.0, float(summary["mean"].abs().max()))
        return summary

    return _summarised(result, change)


def wide_intervals(result: Result) -> Result:
    return _summarised(result, lambda rows: rows.assign(low=rows["mean"] - 1000, high=rows["mean"] + 1000))


def without_intervals(result: Result) -> Result:
    """As of a single set: no interval, and one number that is none."""

    def change(summary: pd.DataFrame) -> pd.DataFrame:
        summary[["low", "high"]] = np.nan
        summary.loc[summary.index[-1], "mean"] = np.nan
        return summary

    return _summarised(result, change)


def one_row(result: Result) -> Result:
    """A single prompt, sequence or pair."""
    unit = next((name for name in ("prompt", "sequence", "pair") if name in result.table), None)
    if unit is None or result.name in NEEDS_MORE:
        return result
    return replace(result, table=result.table[result.table[unit] == result.table[unit].max()].reset_index(drop=True))


def many_layers(result: Result, n: int = LAYERS) -> Result:
    """The layers again and again, until there are as many as in a large model."""
    table = result.table
    for name, last in (("layer", n - 1), ("point", n)):
        if name not in table or result.name in NOT_BY_LAYER:
            continue
        there = sorted(set(table[name]) - {-1})
        rows = [table[table[name] == there[i % len(there)]].assign(**{name: i}) for i in range(last + 1)]
        table = pd.concat([table[table[name] == -1], *rows], ignore_index=True)
    facts = {**result.provenance, "model": {**result.provenance["model"], "n_layers": n}}
    return replace(result, table=table, provenance=facts)


def many_tasks(result: Result) -> Result:
    if "task" not in result.table:
        return result
    rows = [result.table.assign(task=f"a task of a long name, {i}") for i in range(TASKS)]
    return replace(result, table=pd.concat(rows, ignore_index=True))


def many_models(result: Result) -> Result:
    parts = []
    for i in range(MODELS):
        name = f"some-organisation/a-model-of-{i}-billion"
        facts = {**result.provenance, "model": {**result.provenance["model"], "name": name}}
        parts.append(replace(result, table=result.table.assign(model=name), provenance=facts))
    return compare_models(parts)


def _measure() -> None:
    from tests import tiny
    from tests.contract import catalogue

    for study in catalogue.studies():
        study.run(tiny.model("gpt2"), catalogue.studied(study)).save(TABLES)


if __name__ == "__main__":
    _measure()
