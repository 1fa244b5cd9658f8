"""Isolation as a study: loyalty, and the examples of App. C."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

import mechicl as mi
from mechicl.prompts import PromptSet
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.isolation_modes import sinks
from mechicl.studies.label_words.predictions import constant_answer
from tests import tiny
from tests.engines.test_compression import TASK
from tests.random_prompts import random_prompts


def test_loyalty_to_itself_is_one_and_jaccard_takes_its_seven_values() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(8)
    result = mi.isolation(model, prompts, n_layers=[1, 3])
    study = Isolation(n_layers=(1, 3))
    rows = study.loyalty(result.table)
    # in the last layer q reads label words whose own rows no longer matter
    last = rows[(rows["isolated"] == "label words") & (rows["where"] == "last") & (rows["n_layers"] == 1)]
    assert (last["label_loyalty"] == 1).all()
    assert (last["word_loyalty_5"] == 1).all()
    possible = {0, 1 / 9, 1 / 4, 3 / 7, 2 / 3, 1}
    assert all(min(abs(value - p) for p in possible) < 1e-6 for value in rows["word_loyalty_5"])
    assert rows["label_loyalty"].isin([0, 1]).all()


def test_a_result_shows_the_words_that_it_holds() -> None:
    """Table 5 needs no tokenizer; a result that holds none has no such table."""
    model = mi.load_model("tiny-icl")
    result = mi.isolation(model, mi.load_task("tiny-topics-4").prompts(model.tokenizer, samples=4), n_layers=[3])
    (shown,) = result.study.tables(result).values()
    expected = mi.studies.isolation_examples(result, model.tokenizer)
    assert shown["words_isolated"].tolist() == expected["words_isolated"].tolist()
    assert shown["words_clean"].tolist() == expected["words_clean"].tolist()
    without = replace(result, table=result.table.drop(columns="top_words"))
    assert without.study.tables(without) == {}


def test_all_pieces_of_a_label_word_are_isolated_with_span() -> None:
    patches = [Isolation(span=span).patches(  # type: ignore[arg-type]
        tiny.model("gpt2"), PromptSet(()), {"isolated": "label words", "where": "first", "n_layers": 1}
    )[0] for span in ("anchor", "label")]  # fmt: skip
    assert [patch.span for patch in patches] == ["anchor", "label"]  # type: ignore[attr-defined]


def test_examples_show_words_with_and_without_isolation() -> None:
    model = tiny.model("gpt2")
    result = mi.isolation(model, random_prompts(6), n_layers=[2])
    examples = mi.studies.isolation_examples(result, tiny.tokenizer(), n=3, k=4)
    assert len(examples) == 3
    assert all(len(words) == 4 for column in ("words_clean", "words_isolated") for words in examples[column])
    flow = mi.information_flow(model, random_prompts(2))
    with pytest.raises(mi.InputError, match="study isolation"):
        mi.studies.isolation_examples(flow, tiny.tokenizer())


@pytest.mark.parametrize("n_layers", [(), (0,), (4,)])
def test_numbers_of_layers_that_the_model_does_not_have(n_layers: tuple[int, ...]) -> None:
    with pytest.raises(mi.InputError, match=r"choose from 1 to 3|from 1 on"):
        mi.isolation(tiny.model("gpt2"), random_prompts(2), n_layers=n_layers)


def test_exchange_with_the_same_demonstrations_changes_nothing() -> None:
    """And with others it does: the control."""
    model, study = tiny.model("llama"), Isolation(n_layers=(2,), modes=("exchange",))
    one, same, other = (TASK.prompts(tiny.tokenizer(), seed=seed, samples=4) for seed in (0, 0, 1))
    same = replace(same, seed=2)  # of the same demonstrations
    for material, alike in (([one, same], True), ([one, other], False)):
        table = study.run(model, material).table
        probabilities = table[table["isolated"].isin(["nothing", "label words (exchange)"])].groupby("isolated")
        clean, first = (rows[rows["where"] != "last"]["label_mass"].to_numpy() for _, rows in list(probabilities)[::-1])
        assert (abs(clean - first).max() < 1e-6) == alike


def test_a_single_set_has_nothing_to_exchange_with() -> None:
    study, prompts = Isolation(n_layers=(1,)), TASK.prompts(tiny.tokenizer(), seed=0, samples=2)
    table = study.run(tiny.model("gpt2"), prompts).table
    assert "random edges" in set(table["isolated"])
    assert not table["isolated"].str.contains("exchange").any()


def test_what_a_constant_answer_keeps() -> None:
    words = [list(range(10)), list(range(10)), list(range(5, 15))]
    clean = pd.DataFrame({
        "model": "m", "task": "t", "seed": [0, 0, 0], "shots": 1, "prompt": [0, 1, 2], "predicted": [1, 1, 0],
        "top_tokens": words,
    })  # fmt: skip
    kept = constant_answer(clean)
    assert kept["label_loyalty"].tolist() == [1, 1, 0]
    assert kept["word_loyalty_5"].tolist() == pytest.approx([1, 1, 0])
    assert kept["word_loyalty_10"].tolist() == pytest.approx([1, 1, 5 / 15])
    of_seeds = constant_answer(clean.assign(seed=[0, 0, 1]))
    assert (of_seeds[["label_loyalty", "word_loyalty_10"]] == 1).all(axis=None), "an answer for each seed"


def test_a_warning_where_isolation_makes_attention_sinks() -> None:
    """The norms of smollm2-135m-q4 on SST-2: 91 in the clean run and 784 at position 0."""
    modes = {"cut": "presoftmax", "kept": "presoftmax_keep_0", "zeroed": "postsoftmax_zero"}
    norms = pd.DataFrame({"label_norm": [91.0, 816, 294, 87]}, index=["nothing", *modes]).assign(first_norm=784.0)
    warning = sinks(norms, modes, 5)
    assert "816 (presoftmax), 294 (presoftmax_keep_0)" in warning
    assert "postsoftmax_zero" not in warning
    assert sinks(norms.assign(first_norm=95.0), modes, 5) == "", "without a sink there is none to become"
