"""Isolation as a study: loyalty, and the examples of App. C."""

from __future__ import annotations

from dataclasses import replace

import pytest

import mechicl as mi
from mechicl.prompts import PromptSet
from mechicl.studies.label_words.isolation import Isolation
from tests import tiny
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
    assert shown["words_whole"].tolist() == expected["words_whole"].tolist()
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
    assert all(len(words) == 4 for column in ("words_whole", "words_isolated") for words in examples[column])
    flow = mi.information_flow(model, random_prompts(2))
    with pytest.raises(mi.InputError, match="study isolation"):
        mi.studies.isolation_examples(flow, tiny.tokenizer())


@pytest.mark.parametrize("n_layers", [(), (0,), (4,)])
def test_numbers_of_layers_that_the_model_does_not_have(n_layers: tuple[int, ...]) -> None:
    with pytest.raises(mi.InputError, match=r"choose among 1 to 3|from 1 on"):
        mi.isolation(tiny.model("gpt2"), random_prompts(2), n_layers=n_layers)
