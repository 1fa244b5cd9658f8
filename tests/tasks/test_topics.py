"""The generated tasks: other classes and words for every seed, the same for the same."""

from __future__ import annotations

import pytest

from mechicl.errors import InputError
from mechicl.shipped import load_tokenizer
from mechicl.tasks import load_task


@pytest.mark.parametrize(("name", "classes"), [("tiny-topics-2", 2), ("tiny-topics-4", 4)])
def test_seeds_draw_topics_and_label_words(name: str, classes: int) -> None:
    task, tokenizer = load_task(name), load_tokenizer()
    sets = {seed: task.prompts(tokenizer, samples=10, seed=seed) for seed in (42, 43)}
    assert len(sets[42].class_names) == len(sets[42][0].anchors) == classes
    assert sets[42].label_words != sets[43].label_words
    assert sets[42].digest() == load_task(name).prompts(tokenizer, samples=10, seed=42).digest()
    assert task.label_words == dict(zip(sets[42].class_names, sets[42].label_words, strict=True))
    for prompts in sets.values():
        assert {len(d.label) for prompt in prompts for d in prompt.demonstrations} == {1}
        assert set(prompts.gold.tolist()) == set(range(classes))


def test_auxiliary_and_context_prompts_use_the_seeds_classes() -> None:
    task, tokenizer = load_task("tiny-topics-2"), load_tokenizer()
    plain = task.prompts(tokenizer, samples=5, seed=43)
    assert task.auxiliary_prompts(tokenizer, seed=43)[0].ids.demonstrations == plain[0].ids.demonstrations
    assert task.context_prompts(tokenizer, seed=43, rows=range(8)).label_words == plain.label_words


def test_what_the_seed_draws_cannot_be_given() -> None:
    with pytest.raises(InputError, match="by the seed; give it no others"):
        load_task("tiny-topics-2", label_words={"a": " A", "b": " B"})
    with pytest.raises(InputError, match="by the seed; give it no others"):
        load_task(load_task("tiny-topics-4"), data=[{"text": "a", "label": "b"}])
