"""Several models in one result: each keeps its numbers and verdicts, and curves share relative depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechicl.claims import Verdict
from mechicl.cli.reading import models_named
from mechicl.corpora import TokenCorpus, load_corpus
from mechicl.errors import InputError
from mechicl.report import write_report
from mechicl.results import Result
from mechicl.studies import compare_models, load_result
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.models_figure import training_steps
from mechicl.studies.several import OfModels, Several, _counted
from mechicl.studies.stages.lens import LensStudy
from mechicl.studies.stages.local_attention import LocalAttentionStudy
from tests import claiming, tiny
from tests.random_prompts import random_prompts


def corpus() -> TokenCorpus:
    texts = ["Review good film and a long sentence", "Question Answer Type of a Person in the World"]
    return load_corpus(tiny.tokenizer(), texts, prepend_bos=True, n_ctx=40, packing="documents")


def on(study: Any, name: str, material: Any, family: str = "gpt2") -> Result:
    """A result as if the model had this name."""
    result = study.run(tiny.model(family), material)
    facts = {**result.provenance, "model": {**result.provenance["model"], "name": name}}
    return replace(result, table=result.table.assign(model=name), provenance=facts)


def lenses(*names: str, families: Sequence[str] = ("gpt2", "neo")) -> Result:
    """Three layers, and four."""
    return compare_models(
        [on(LensStudy(), name, corpus(), family) for name, family in zip(names, families * len(names), strict=False)]
    )


def test_each_model_keeps_its_numbers_and_verdicts() -> None:
    parts = [on(LensStudy(), name, corpus(), family) for name, family in (("a", "gpt2"), ("b", "neo"))]
    both = compare_models(parts)
    pd.testing.assert_frame_equal(both.table, pd.concat([one.table for one in parts], ignore_index=True))
    summary = both.summary()
    for one in parts:
        name = one.table["model"].iloc[0]
        of_model = summary[summary["model"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(of_model, one.summary())
    assert [(one.claim.id, one.about["model"], one.outcome) for one in both.claims] == [
        (one.claim.id, one.about["model"], one.outcome) for part in parts for one in part.claims
    ]
    first = [one.outcome for one in both.claims if one.claim == both.claims[0].claim]
    assert both.finding().startswith(f"Supported on {first.count('supported')} of 2 models")
    assert both.details() == [
        f"{name}: {text}" for name, one in zip("ab", parts, strict=True) for text in one.details()
    ]
    with pytest.raises(InputError, match="of several models already"):
        compare_models([both, parts[0]])


def test_models_that_support_a_claim_are_counted() -> None:
    claim = claiming.claim("up", "Information gathers.")

    def verdicts(**outcomes: str) -> OfModels:
        """Of models, or of models and tasks, joined by _on_."""
        about = [dict(zip(("model", "task"), name.split("_on_"), strict=False)) for name in outcomes]
        return OfModels(Verdict(claim, outcome, about=of) for of, outcome in zip(about, outcomes.values(), strict=True))

    two, none = verdicts(a="supported", b="supported", c="undecided"), verdicts(a="contradicted", b="undecided")
    assert two.in_words() == "Supported on 2 of 3 models (a, b); undecided on c: Information gathers."
    assert none.in_words() == "Supported on 0 of 2 models; contradicted on a; undecided on b: Information gathers."
    tasks = verdicts(a_on_x="supported", a_on_y="supported", b_on_x="supported", b_on_y="contradicted")
    assert tasks.in_words() == (
        "Supported in every case on 1 of 2 models (a); supported on b x; contradicted on b y: Information gathers."
    )
    assert _counted([{"name": "a"}, {"name": "b"}]) == "models"
    texts = [{"name": f"{model} on {text}", "model": model} for model in "ab" for text in "xy"]
    assert (_counted(texts[:2]), _counted(texts)) == ("texts", "pairs of model and text")


def test_curves_of_models_share_relative_depth() -> None:
    figure = lenses("a", "b").figure()
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    for dash in ("solid", "dash"):
        own = [trace for trace in curves if trace.line.dash == dash]
        assert {(min(trace.x), max(trace.x)) for trace in own} == {(0.0, 1.0)}
    assert {len(trace.x) for trace in curves if trace.line.dash == "solid"} == {tiny.N_LAYERS + 1}
    assert {len(trace.x) for trace in curves if trace.line.dash == "dash"} == {5}, "four layers"
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert {"a", "b"} <= set(legend)
    assert len(legend) == len(set(legend))


def test_a_panel_of_many_curves_is_not_shared_and_a_models_dash_is_no_curves() -> None:
    text = corpus()
    parts = [on(LocalAttentionStudy(windows=(1, 2, 3, 4, 5)), name, text, name) for name in ("gpt2", "neo")]
    figure = compare_models(parts).figure()
    panels = figure.layout.meta["panels"]
    assert panels[:3] == [f"attention to the previous k tokens: {name}" for name in ("k = 5", "gpt2", "neo")]
    assert panels[-1] == "the authors' mean entry, k ≤ 5"
    for place, dashes in enumerate(({"solid", "dash"}, {"solid"}, {"dash"})):
        curves = [trace for trace in figure.data if trace.xaxis == f"x{place + 1 if place else ''}" and not trace.fill]
        assert {trace.line.dash for trace in curves if len(trace.x) > 1} == dashes
        shared = {trace.name for trace in curves if len(trace.x) > 1} == {"k = 5"}
        assert shared is (place == 0), "the curve of the claims is that of both models"
    beside = [trace for trace in figure.data if trace.name == "itself" and not trace.fill]
    assert all(trace.opacity < 0.5 for trace in beside), "drawn with a dash of its own where there is one model"


def test_checkpoints_are_drawn_over_training_steps_in_order() -> None:
    result = lenses("x@step1000", "x@step2", "x@step30", families=("gpt2",))
    figure = result.figure()
    assert {trace.type for trace in figure.data} == {"heatmap"}
    assert {tuple(trace.x) for trace in figure.data} == {("2", "30", "1000")}
    summary = result.summary()
    entropy = summary[(summary["metric"] == "entropy") & (summary["lens"] == "corrected")]
    wide = entropy.pivot(index="point", columns="model", values="mean")[["x@step2", "x@step30", "x@step1000"]]
    np.testing.assert_allclose(figure.data[0].customdata, wide.to_numpy())


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["pythia-70m@step1", "pythia-70m@step1000"], [1, 1000]),
        (["checkpoint-500", "checkpoint-20"], [500, 20]),
        (["step_3", "step_4"], [3, 4]),
        (["gpt2", "gpt2-xl"], None),
        (["a@step1", "b@step2"], None),
        (["a@step1", "a@main"], None),
    ],
)
def test_a_training_step_is_read_off_the_name(names: list[str], steps: list[int] | None) -> None:
    assert training_steps(names) == steps


def test_other_figures_have_a_row_of_panels_for_each_model() -> None:
    study, prompts = Isolation(n_layers=(1,), modes=("presoftmax",)), [random_prompts(3, seed=i) for i in range(2)]
    one = on(study, "a", prompts)
    both = compare_models([one, on(study, "b", prompts, "llama")])
    alone, panels = one.figure().layout.meta["panels"], both.figure().layout.meta["panels"]
    assert panels == [f"{name}, {panel}" for name in ("a", "b") for panel in alone]
    assert both.figure().layout.meta["columns"] == len(alone)


def test_it_is_saved_read_and_reported(tmp_path: Path) -> None:
    result = lenses("a", "b")
    result.save(tmp_path)
    again = load_result(tmp_path)
    assert isinstance(again.study, Several)
    pd.testing.assert_frame_equal(again.table, result.table)
    assert again.finding() == result.finding()
    assert again.figure().to_json() == result.figure().to_json()
    assert "a, b" in write_report([again], tmp_path).read_text()


def test_what_cannot_be_compared_is_refused() -> None:
    one = on(LensStudy(), "a", corpus())
    with pytest.raises(InputError, match="Two of the models or texts are called a"):
        compare_models([one, one])
    with pytest.raises(InputError, match="The results differ in protocol"):
        compare_models([one, on(LensStudy("paper"), "b", corpus())])
    with pytest.raises(InputError, match="for one study"):
        compare_models([one, on(Isolation(n_layers=(1,)), "b", random_prompts(3))])
    with pytest.raises(InputError, match="no results"):
        compare_models([])
    assert compare_models([one]) is one


def test_models_and_checkpoints_on_a_command_line(tmp_path: Path) -> None:
    assert models_named("tiny-icl,gpt2", None) == ("tiny-icl", "gpt2")
    assert models_named("gpt2", "step1,step20") == ("gpt2@step1", "gpt2@step20")
    for name in ("step10", "step9", "logs"):
        (tmp_path / "run" / name).mkdir(parents=True)
    for name in ("step10", "step9"):
        (tmp_path / "run" / name / "config.json").write_text("{}")
    run = str(tmp_path / "run")
    assert models_named(run, None) == (f"{run}/step9", f"{run}/step10"), (
        "in the order of numbers; other folders are none"
    )
    assert models_named(run, "step10") == (f"{run}/step10",)
    with pytest.raises(InputError, match="has no checkpoint 'step7'; it has step9, step10"):
        models_named(run, "step7")
    with pytest.raises(InputError, match="--checkpoints takes one model"):
        models_named("gpt2,gpt2-xl", "step1")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert models_named(run, None) == (run,), "a model of its own"
    for odd in ("a,b", "a@b"):
        (tmp_path / odd).mkdir()
        assert models_named(str(tmp_path / odd), None) == (str(tmp_path / odd),), "what exists comes first"


def test_several_texts_stand_beside_the_model(tmp_path, monkeypatch):
    from mechicl.cli import main
    from mechicl.studies import load_result

    for name in ("first", "second"):
        (tmp_path / f"{name}.txt").write_text(" ".join(["the cat sat on a mat"] * 40))
    texts = f"{tmp_path / 'first.txt'},{tmp_path / 'second.txt'}"
    asked = ["run", "norms", "--model", "tiny-icl", "--text", texts, "--tokens", "60", "--length", "20"]
    monkeypatch.setattr("sys.argv", ["mechicl", *asked, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    result = load_result(tmp_path / "out", "norms")
    assert set(result.table["model"]) == {"tiny-icl on first.txt", "tiny-icl on second.txt"}
    assert {one.about["model"] for one in result.claims} == set(result.table["model"])


def test_a_text_whose_path_holds_a_comma_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechicl.cli import main

    text = tmp_path / "first, second.txt"
    text.write_text(" ".join(["the cat sat on a mat"] * 40))
    asked = ["run", "norms", "--model", "tiny-icl", "--text", str(text), "--tokens", "60", "--length", "20"]
    monkeypatch.setattr("sys.argv", ["mechicl", *asked, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert set(load_result(tmp_path / "out", "norms").table["model"]) == {"tiny-icl"}
