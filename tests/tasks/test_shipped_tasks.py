"""The tasks that ship with mechicl: enough varied texts, exactly balanced, asked about with one-token label words."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from mechicl.shipped import load_tokenizer
from mechicl.tasks import Task, load_task, shipped_tasks

SIZES = {"reviews": 240, "headlines": 320, "questions": 300}


def plain(text: str) -> list[str]:
    """Words without case and punctuation."""
    return re.sub(r"[^\w\s]", " ", text.casefold()).split()


def same_openings(texts: list[str]) -> list[str]:
    """First four words that several texts share."""
    return [opening for opening, n in Counter(" ".join(plain(text)[:4]) for text in texts).items() if n > 1]


def near_duplicates(texts: list[str]) -> list[tuple[str, str]]:
    """Pairs of texts with more than six in ten of their words in common."""
    words = [frozenset(plain(text)) for text in texts]
    pairs = combinations(range(len(texts)), 2)
    return [(texts[i], texts[j]) for i, j in pairs if len(words[i] & words[j]) > 0.6 * len(words[i] | words[j])]


@pytest.fixture(params=SIZES)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


def label_tokens(tokenizer: Any, task: Task, word: str) -> list[int]:
    """Tokens of a label word where it stands in the template."""
    before = task.template.partition("{text}")[2].removesuffix("{label}")
    ids, shorter = (tokenizer(text, add_special_tokens=False).input_ids for text in (before + word, before))
    assert ids[: len(shorter)] == shorter
    return ids[len(shorter) :]


def texts_of(task: Task) -> list[str]:
    assert task.splits.queries is not None
    return [*task.splits.demonstrations.texts, *task.splits.queries.texts]


def test_there_are_enough_texts_and_classes_are_exactly_balanced(task: Task) -> None:
    assert len(texts_of(task)) >= SIZES[task.name]
    for split in (task.splits.demonstrations, task.splits.queries):
        assert split is not None
        counts = Counter(split.classes)
        assert set(counts) == set(range(len(task.class_names)))
        assert len(set(counts.values())) == 1, counts


def test_texts_are_whole_and_short(task: Task) -> None:
    for text in texts_of(task):
        assert 4 <= len(text.split()) <= 25, text
        assert text == " ".join(text.split()), "one line, single spaces"


def test_no_text_is_another_in_disguise(task: Task) -> None:
    texts = texts_of(task)
    alike = Counter(" ".join(plain(text)) for text in texts)
    assert max(alike.values()) == 1, alike.most_common(1)
    assert same_openings(texts) == []
    assert near_duplicates(texts) == []


def test_a_template_filled_in_would_be_noticed() -> None:
    filled = [f"The {thing} was not at all what we had hoped for." for thing in ("film", "hotel")]
    assert near_duplicates(filled)
    assert same_openings(["I did not like the soup.", "I did not, like, finish it."])


def test_length_does_not_give_a_class_away(task: Task) -> None:
    texts, classes = task.splits.demonstrations.texts, task.splits.demonstrations.classes
    means = [
        sum(len(text.split()) for text, own in zip(texts, classes, strict=True) if own == c) / classes.count(c)
        for c in range(len(task.class_names))
    ]
    assert max(means) < 1.25 * min(means), means


def test_label_words_are_one_token_each_for_gpt2(shared: Path) -> None:
    folder = shared / "models" / "tiny-gpt2"
    if not folder.is_dir():
        pytest.skip(f"no tokenizer of GPT-2 in {folder}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for task in map(load_task, SIZES):
        pieces = [label_tokens(tokenizer, task, word) for word in task.label_words.values()]
        assert all(len(ids) == 1 for ids in pieces), dict(zip(task.label_words, pieces, strict=True))
        assert len({ids[0] for ids in pieces}) == len(pieces), "classes are told apart by their first token"
    assert len(label_tokens(tokenizer, load_task("trec"), " Abbreviation")) == 3, "the control: the paper's own word"


def test_provenance_names_mechicl_and_no_place_on_this_machine(task: Task) -> None:
    prompts = task.prompts(load_tokenizer(), samples=2)
    data = prompts.origin["data"]
    assert data["demonstrations"] == f"{task.name} (shipped with mechicl), train"
    assert data["queries"] == f"{task.name} (shipped with mechicl), test"


def test_data_of_ones_own_may_take_their_place() -> None:
    rows = [{"text": f"text {k}", "label": name} for k in range(4) for name in ("negative", "positive")]
    assert load_task("reviews", data=rows).splits.demonstrations.texts[0] == "text 0"
    assert {"reviews", "headlines", "questions", "tiny-topics-2", "tiny-topics-4"} == set(shipped_tasks())
