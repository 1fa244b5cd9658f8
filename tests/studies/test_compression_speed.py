"""Timing of compressed contexts: equal answers under the clock, operations as they are counted, times of one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mechicl.engines.compression import compress
from mechicl.engines.cost import forward_flops
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.results import Cells, Result
from mechicl.studies import compression_speed
from mechicl.studies.label_words.compression_speed import (
    ANCHORS,
    ANCHORS_REWEIGHTED,
    ARMS,
    FULL,
    PREFIX,
    PREFIX_REWEIGHTED,
    TEXT,
    CompressionSpeed,
)
from mechicl.studies.label_words.tables import TABLE_3
from tests import tiny
from tests.engines.test_compression import TASK, films

STUDY = CompressionSpeed(warm_up=1, repeats=2, lr=0.1, per_class=1)


@pytest.fixture(scope="module")
def result() -> Any:
    return STUDY.run(tiny.model("llama"), STUDY.prompts(TASK, tiny.tokenizer(), seed=0))


def test_every_arm_gives_the_answers_it_stands_for(result: Any) -> None:
    model, prompts = tiny.model("llama"), films()
    predicted = {arm: rows["predicted"].tolist() for arm, rows in result.table.groupby("arm")}
    assert set(predicted) == set(ARMS)
    assert predicted[FULL] == predicted[PREFIX] == run(model, prompts).predicted.tolist()
    assert predicted[ANCHORS] == compress(model, prompts[0]).ask(model, prompts).predicted.tolist()
    assert predicted[PREFIX_REWEIGHTED] != predicted[FULL] or predicted[ANCHORS_REWEIGHTED] != predicted[ANCHORS]


def test_what_is_counted(result: Any) -> None:
    prompts, kept = films(), len(compress(tiny.model("llama"), films()[0]))
    rows = result.table.set_index(["arm", "prompt"])
    start = prompts[0].query_start
    for index, prompt in enumerate(prompts):
        assert rows.loc[FULL, "tokens"][index] == len(prompt)
        assert rows.loc[PREFIX, "tokens"][index] == rows.loc[ANCHORS, "tokens"][index] == len(prompt) - start
        assert rows.loc[TEXT, "tokens"][index] == kept + len(prompt) - start
    assert set(rows.loc[PREFIX, "cached_tokens"]) == {start}
    assert set(rows.loc[ANCHORS, "cached_tokens"]) == {kept}
    layers, heads, size = 3, 2, 8
    assert set(rows.loc[ANCHORS, "cache_bytes"]) == {2 * 4 * layers * kept * heads * size}
    assert (rows["seconds"] > 0).all()
    flops = [rows.loc[arm, "flops"].sum() for arm in (FULL, TEXT, PREFIX, ANCHORS)]
    assert flops == sorted(flops, reverse=True)
    words = [d.split("Sentiment")[0].split() for d in prompts[0].string.split("Review: ")[1:3]]
    assert set(rows["demonstration_words"]) == {sum(map(len, words))}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_operations_are_those_of_the_matrix_products(family: str) -> None:
    """PyTorch's own count of a whole pass, which also multiplies what causality hides: half a square a head."""
    model, sizes = tiny.huggingface(family), hooked(tiny.model(family)).sizes
    n = 11
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tiny.tokens(1, n), logits_to_keep=1)
    hidden = 4 * sizes.n_layers * sizes.n_heads * sizes.d_head * (n * n - n * (n + 1) // 2)
    assert forward_flops(sizes, n, 0, sizes.d_vocab) == pytest.approx(counter.get_total_flops() - hidden, rel=0.01)
    in_two = forward_flops(sizes, 4, 0, 0) + forward_flops(sizes, n - 4, 4, sizes.d_vocab)
    assert in_two == forward_flops(sizes, n, 0, sizes.d_vocab)


def test_times_are_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny.model("gpt2"), films()
    study = CompressionSpeed(warm_up=0, repeats=1)
    first = study.run(model, prompts, cells=Cells(tmp_path))
    again = study.run(model, prompts, cells=Cells(tmp_path))
    pd.testing.assert_frame_equal(first.table, again.table)
    assert first.provenance["surroundings"]["threads"] == torch.get_num_threads()
    monkeypatch.setattr("platform.platform", lambda: "elsewhere")
    elsewhere = study.run(model, prompts, cells=Cells(tmp_path))
    assert not first.table["seconds"].equals(elsewhere.table["seconds"])
    assert ANCHORS_REWEIGHTED not in set(first.table["arm"])
    assert first.figure().data
    assert "exact" in first.finding()


def test_the_papers_scheme_and_numbers(result: Any) -> None:
    paper = compression_speed(tiny.model("gpt2"), films(), protocol="paper")
    assert set(paper.table["arm"]) == {FULL, ANCHORS}
    assert paper.table.groupby("arm")["seconds"].nunique().tolist() == [1, 1]
    fast = paper.summary().query("metric == 'times_as_fast'").set_index("arm")["mean"]
    assert fast[FULL] == 1
    assert paper.finding()
    numbers = result.summary().set_index(["metric", "arm"])
    assert (numbers.loc["times_as_fast", "low"] <= numbers.loc["times_as_fast", "high"]).all()
    assert result.figure().data
    result.table["task"] = "trec"
    marks = [trace for trace in type(result)(result.study, result.table, result.provenance).figure().data if trace.name]
    assert [tuple(trace.x) for trace in marks] == [(1.5,), (2.2,)]
    assert TABLE_3["trec"] == (1.5, 2.2)


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(InputError, match="repeats is 0; give a whole number from 1 on"):
        CompressionSpeed(repeats=0)


def planted(faster: float, right: float, rival: float = 1.0) -> pd.DataFrame:
    """Six sets of eight queries, in which re-weighted anchors are so many times as fast and so often right."""
    generator, n = np.random.default_rng(0), 48
    seconds = {FULL: 1.0, PREFIX: 1 / rival, ANCHORS: 1 / faster, PREFIX_REWEIGHTED: 1 / rival,
               ANCHORS_REWEIGHTED: 1 / faster}  # fmt: skip
    shares = dict.fromkeys(seconds, 0.5) | {ANCHORS_REWEIGHTED: right}
    return pd.concat([
        pd.DataFrame({
            "model": "m", "task": "t", "seed": np.arange(n) // 8, "shots": 1, "demonstration_set": 0,
            "prompt": np.arange(n) % 8, "arm": arm, "seconds": of_arm * generator.lognormal(0, 0.05, n), "gold": 1,
            "predicted": (np.arange(n) % 8 < 8 * shares[arm]).astype(int),
        })
        for arm, of_arm in seconds.items()
    ])  # fmt: skip


@pytest.mark.parametrize(("faster", "right", "rival", "outcomes"), [
    (2.0, 0.75, 1.0, ("supported", "supported", "supported")),
    (2.0, 0.75, 2.0, ("supported", "contradicted", "supported")),  # the exact cache is as fast
    (0.5, 0.75, 1.0, ("contradicted", "contradicted", "contradicted")),  # better, but slower
    (2.0, 0.25, 1.0, ("supported", "supported", "contradicted")),  # faster, but worse
])  # fmt: skip
def test_speed_is_held_against_each_rival_and_both_corners_must_rise(
    faster: float, right: float, rival: float, outcomes: tuple[str, ...]
) -> None:
    verdicts = Result(CompressionSpeed(), planted(faster, right, rival), {}).claims
    assert tuple(one.outcome for one in verdicts) == outcomes
    assert verdicts[0].effect == pytest.approx(faster - 1, rel=0.1)
    assert verdicts[0].n == {"sets": 6, "prompts": 48}
    assert f"{faster / rival:.1f}" in verdicts[2].note.split("re-weighted:")[-1]


def test_of_one_set_nothing_is_decided(result: Any) -> None:
    assert {one.outcome for one in result.claims} == {"undecided"}
