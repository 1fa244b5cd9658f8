"""Tasks: defined in a few lines, drawn as the authors draw, in any order, and refused with a reason."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechicl.errors import InputError
from mechicl.tasks import Task, all_permutations, built_in_tasks, load_task
from tests.prompts.vocabularies import byte_level, metaspace
from tests.tasks.rows import FOUR, rows

TOKENIZER = byte_level(*(w for name in FOUR for w in load_task(name).label_words.values()), " A", " B")
SST2 = {"train": rows("sst2", 12), "test": rows("sst2", 6)}


@pytest.fixture
def sst2() -> Task:
    return load_task("sst2", data=SST2)


def test_a_task_of_ones_own() -> None:
    lines = {"a horse walks into a bar": "yes", "it rains": "no"}
    jokes = [{"text": f"{text} {n} times", "label": label} for n in range(4) for text, label in lines.items()]
    task = Task("jokes", "Line: {text}\nFunny:{label}", {"no": " No", "yes": " Yes"}, jokes)
    prompts = task.prompts(TOKENIZER, shots=2, seed=1)
    assert prompts[0].string.startswith("Line: ")
    assert prompts.class_names == ("no", "yes")
    assert Counter(prompts[0].anchor_classes) == {0: 2, 1: 2}


def test_the_four_tasks_of_the_paper_are_built_in() -> None:
    assert set(FOUR) == {"sst2", "trec", "agnews", "emo"} <= set(built_in_tasks())
    for name in FOUR:
        prompts = load_task(name, data=rows(name)).prompts(TOKENIZER)
        assert len(prompts[0].demonstrations) == len(prompts.class_names)
    with pytest.raises(InputError, match="no task 'sst3'; there are sst2, trec, agnews, emo"):
        load_task("sst3")


def test_label_words_are_a_free_mapping() -> None:
    task = load_task("sst2", data=SST2, label_words={"positive": " B", "negative": " A"})
    assert list(task.label_words.items()) == [("negative", " A"), ("positive", " B")]
    plain = load_task("sst2", data=SST2)
    assert task.name == "sst2 (A, B)"
    assert load_task("sst2", label_words=plain.label_words).name == "sst2"
    for renamed, prompt in zip(task.prompts(TOKENIZER), plain.prompts(TOKENIZER), strict=True):
        assert renamed.string == prompt.string.replace(" Negative", " A").replace(" Positive", " B")
        assert renamed.gold == prompt.gold
    with pytest.raises(InputError, match="classes neg, pos, but the task 'sst2' has negative, positive"):
        load_task("sst2", label_words={"neg": " A", "pos": " B"})
    with pytest.raises(InputError, match="' A' is given to two classes"):
        load_task("sst2", label_words={"negative": " A", "positive": " A"})
    with pytest.raises(InputError, match="1 classes; it needs two"):
        Task("one", "{text}:{label}", {"only": " Only"})


def test_demonstrations_are_those_of_the_legacy_walk(sst2: Task) -> None:
    walk = list(range(24))
    np.random.RandomState(7).shuffle(walk)
    expected = [next(i for i in walk if i % 2 == 0), next(i for i in walk if i % 2 == 1)]
    prompts = sst2.prompts(TOKENIZER, seed=7)
    assert {prompt.ids.demonstrations for prompt in prompts} == {tuple(sorted(expected, key=walk.index))}
    assert [prompt.ids.query for prompt in prompts] == np.random.default_rng(7).permutation(12).tolist()
    assert [prompt.gold for prompt in prompts] == [prompt.ids.query % 2 for prompt in prompts]


def test_auxiliary_prompts_follow_the_demonstrations_in_the_walk(sst2: Task) -> None:
    demonstrations = sst2.prompts(TOKENIZER, seed=3)[0]
    five = sst2.prompts(TOKENIZER, seed=3, shots=5)[0].ids.demonstrations
    auxiliary = sst2.auxiliary_prompts(TOKENIZER, seed=3)
    assert {prompt.ids.demonstrations for prompt in auxiliary} == {demonstrations.ids.demonstrations}
    assert Counter(auxiliary.gold.tolist()) == {0: 4, 1: 4}
    asked = [prompt.ids.query for prompt in auxiliary]
    assert asked == [i for i in five if i not in demonstrations.ids.demonstrations]


def test_contexts_come_in_class_order_and_take_turns(sst2: Task) -> None:
    prompts = sst2.context_prompts(TOKENIZER, contexts=5)
    assert [prompt.ids.query for prompt in prompts] == list(range(12))
    assert {prompt.anchor_classes for prompt in prompts} == {(0, 1)}
    used = [prompt.ids.demonstrations for prompt in prompts]
    assert used[:5] == used[5:10]
    assert len(set(used)) == 5
    assert used[0] == sst2.prompts(TOKENIZER, order="class")[0].ids.demonstrations


def test_orders_rearrange_the_same_demonstrations(sst2: Task) -> None:
    def shown(order: Any) -> tuple[int, ...]:
        return sst2.prompts(TOKENIZER, shots=2, order=order, samples=1)[0].ids.demonstrations

    encounter = shown("encounter")
    assert shown("reversed") == encounter[::-1]
    assert shown("class") == tuple(sorted(encounter, key=lambda row: row % 2))
    assert shown((2, 0, 1, 3)) == tuple(encounter[k] for k in (2, 0, 1, 3))
    orders = [shown(order) for order in all_permutations(4)]
    assert len(set(orders)) == 24
    with pytest.raises(InputError, match="permutation of 0 to 3"):
        shown("sideways")
    with pytest.raises(InputError, match="permutation of 0 to 3"):
        shown((0, 1, 1, 2))
    with pytest.raises(InputError, match="40,320 orders"):
        all_permutations(8)


def test_fresh_demonstrations_differ_from_prompt_to_prompt(sst2: Task) -> None:
    prompts = sst2.prompts(TOKENIZER, demonstrations="per_prompt", shots=2)
    assert len({prompt.ids.demonstrations for prompt in prompts}) > 1
    assert len({prompt.anchor_classes for prompt in prompts}) == 1, "one order of classes for a seed"
    with pytest.raises(InputError, match="'per_seed' or 'per_prompt'"):
        sst2.prompts(TOKENIZER, demonstrations="per_day")  # type: ignore[arg-type]


def test_nobody_elses_random_numbers_move(sst2: Task) -> None:
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()
    for policy in ("per_seed", "per_prompt"):
        sst2.prompts(TOKENIZER, demonstrations=policy)
    sst2.auxiliary_prompts(TOKENIZER)
    load_task("sst2", data=rows("sst2")).prompts(TOKENIZER)
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))


def test_a_single_source_is_divided_by_the_seed() -> None:
    task = load_task("sst2", data=rows("sst2", 10))
    for seed in (42, 43):
        prompts = task.prompts(TOKENIZER, shots=5, seed=seed)
        shown = set(prompts[0].ids.demonstrations)
        asked = {prompt.ids.query for prompt in prompts}
        assert shown.isdisjoint(asked)
        assert shown | asked == set(range(20))
        assert all(task.splits.demonstrations.texts[p.ids.query] in p.string for p in prompts)
    assert task.prompts(TOKENIZER, seed=42).digest() == task.prompts(TOKENIZER, seed=42).digest()
    assert task.prompts(TOKENIZER, seed=42).digest() != task.prompts(TOKENIZER, seed=43).digest()


def test_the_train_split_is_asked_about_apart_from_what_is_shown(tmp_path: Path) -> None:
    """And a query that the data hold twice is said."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("sst2", 8)))
    task = replace(load_task("sst2", data=tmp_path), query_split="train")
    prompts = task.prompts(TOKENIZER, shots=4)
    assert {*prompts[0].ids.demonstrations}.isdisjoint({prompt.ids.query for prompt in prompts})
    of_rows = replace(load_task("sst2", data=SST2), query_split="train").prompts(TOKENIZER, shots=4)
    assert {*of_rows[0].ids.demonstrations}.isdisjoint({prompt.ids.query for prompt in of_rows}), "rows given, too"
    assert len(of_rows) == len(SST2["train"]) // 2
    with pytest.raises(InputError, match="has no validaton file to ask about"):
        replace(task, query_split="validaton").prompts(TOKENIZER)
    twice = [{"text": text, "label": label} for text, label in (("good", "positive"), ("dull", "negative"))] * 4
    with pytest.warns(UserWarning, match="4 of 4 queries drawn have a text that is among their own demonstrations"):
        load_task("sst2", data=twice).prompts(TOKENIZER, shots=2)


def test_samples_and_rows_choose_the_queries(sst2: Task) -> None:
    assert len(sst2.prompts(TOKENIZER, samples=5)) == 5
    assert len(sst2.prompts(TOKENIZER, samples=500)) == 12
    assert [p.ids.query for p in sst2.prompts(TOKENIZER, rows=[3, 1])] == [3, 1]
    with pytest.raises(InputError, match=r"Rows \[99\]"):
        sst2.prompts(TOKENIZER, rows=[99])
    with pytest.raises(InputError, match="samples is 0; give a whole number, at least 1"):
        sst2.prompts(TOKENIZER, samples=0)


def test_too_few_examples_of_a_class_are_refused_by_name() -> None:
    scarce = {"train": [*rows("sst2", 3), {"text": "x", "label": "negative"}], "test": rows("sst2", 2)}
    with pytest.raises(InputError, match="'positive' has 3 examples in the train rows, but 4 are needed"):
        load_task("sst2", data=scarce).prompts(TOKENIZER, shots=4)
    one_class = [row for row in rows("sst2") if row["label"] == "negative"]
    for policy in ("per_seed", "per_prompt"):
        with pytest.raises(InputError, match="'positive' has 0 examples"):
            load_task("sst2", data=one_class).prompts(TOKENIZER, demonstrations=policy)


def test_samples_of_one_class_are_said(recwarn: pytest.WarningsRecorder) -> None:
    one = [row for row in SST2["test"] if row["label"] == "positive"]
    load_task("sst2", data={**SST2, "test": one}).prompts(TOKENIZER)
    load_task("sst2", data=SST2).prompts(TOKENIZER)
    assert [str(w.message) for w in recwarn if "of one class" in str(w.message)] == [
        "sst2, seed 42: all 6 prompts ask about texts of one class, so accuracy and confusion say nothing of the other "
        "classes."
    ]


def test_unlabelled_examples_are_asked_about_but_never_shown() -> None:
    unlabelled = [{"text": "who knows", "label": None}, {"text": "who knows", "label": -1}]
    data = {"train": [*rows("sst2"), *unlabelled], "test": unlabelled}
    prompts = load_task("sst2", data=data).prompts(TOKENIZER, shots=8)
    assert prompts.gold.tolist() == [-1, -1]
    assert not any("who knows" in prompt.string[: prompt.offsets[prompt.query_start][0]] for prompt in prompts)


def test_prompts_too_long_are_refused_dropped_or_avoided(sst2: Task) -> None:
    texts = [{**row, "text": row["text"] + " again" * (k % 5) * 10} for k, row in enumerate(rows("sst2", 20))]
    task = load_task("sst2", data={"train": rows("sst2"), "test": texts})
    lengths = [len(prompt) for prompt in task.prompts(TOKENIZER)]
    limit = sorted(lengths)[len(lengths) // 2]
    with pytest.raises(InputError, match=f"context of {limit} tokens"):
        task.prompts(TOKENIZER, n_ctx=limit)
    dropped = task.prompts(TOKENIZER, n_ctx=limit, too_long="drop")
    assert [len(p) for p in dropped] == [length for length in lengths if length <= limit]
    shorter = task.prompts(TOKENIZER, n_ctx=limit, too_long="shorter")
    assert 0 < len(shorter) < 40
    assert max(map(len, shorter)) <= limit
    with pytest.raises(InputError, match="longer than 20 tokens"):
        task.prompts(TOKENIZER, n_ctx=20, too_long="drop")
    with pytest.raises(InputError, match="its share of the context, 6 tokens"):
        task.prompts(TOKENIZER, n_ctx=20, too_long="shorter")
    longest = replace(task, label_words={"negative": " Negative", "positive": " q z x v w"})
    fitting = longest.prompts(TOKENIZER, n_ctx=limit, too_long="shorter")
    assert max(map(len, fitting)) <= limit, "more characters are not more tokens"
    for too_long in ("drop", "shorter"):
        with pytest.raises(InputError, match="needs n_ctx"):
            task.prompts(TOKENIZER, too_long=too_long)


def test_a_space_that_would_be_every_labels_first_token_is_left_out(sst2: Task) -> None:
    letters = metaspace()
    with pytest.warns(UserWarning, match="written without it: 'Negative', 'Positive'"):
        prompts = sst2.prompts(letters)
    assert prompts.label_words == ("Negative", "Positive")
    assert letters.convert_ids_to_tokens(list(prompts.label_ids)) == ["N", "P"]
    assert "Sentiment:Negative\n" in prompts[0].string
    one_lone_space = metaspace(" N")  # " Positive" alone would begin with a space
    with pytest.warns(UserWarning, match="which says nothing about the class"):
        assert sst2.prompts(one_lone_space).label_words == ("Negative", "Positive")


def test_provenance_says_where_prompts_come_from(sst2: Task) -> None:
    told = sst2.prompts(TOKENIZER, seed=44, shots=2).provenance()
    json.dumps(told)
    assert (told["task"], told["seed"], told["shots"]) == ("sst2", 44, 2)
    assert told["data"]["demonstrations"] == "the train rows"
    other = load_task("sst2", data={**SST2, "train": rows("sst2", 11)}).prompts(TOKENIZER).provenance()
    assert other["data"]["demonstrations_digest"] != told["data"]["demonstrations_digest"]


def test_tasks_are_imported_without_the_libraries_that_read_data() -> None:
    heavy = ("datasets", "pandas", "pyarrow", "transformers")
    program = f"import sys, mechicl.tasks; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_demonstrations_may_differ_by_class_and_carry_wrong_labels(sst2: Task) -> None:
    even = sst2.prompts(TOKENIZER, shots=3, seed=7)
    uneven = sst2.prompts(TOKENIZER, shots=(3, 1), seed=7)
    assert Counter(uneven[0].anchor_classes) == {0: 3, 1: 1}
    assert uneven.shots == "3/1"
    assert set(uneven[0].ids.demonstrations) < set(even[0].ids.demonstrations)
    aside = sst2.auxiliary_prompts(TOKENIZER, shots=(3, 1), per_class=2, seed=7)
    assert {p.ids.demonstrations for p in aside} == {uneven[0].ids.demonstrations}
    assert Counter(p.gold for p in aside) == {0: 2, 1: 2}
    assert not {p.ids.query for p in aside} & set(uneven[0].ids.demonstrations)

    biased = sst2.prompts(TOKENIZER, shots=3, mislabelled=(2, 0), seed=7)
    assert biased.shots == "3 (2/0 mislabelled)"
    assert biased[0].ids == even[0].ids
    changed = [(a, b) for a, b in zip(even[0].anchor_classes, biased[0].anchor_classes, strict=True) if a != b]
    assert changed == [(0, 1), (0, 1)]
    assert [p.gold for p in biased] == [p.gold for p in even]

    with pytest.raises(InputError, match="one for each of the 2 classes: negative, positive"):
        sst2.prompts(TOKENIZER, shots=(1, 2, 3))
    with pytest.raises(InputError, match="it cannot be more"):
        sst2.prompts(TOKENIZER, shots=(3, 1), mislabelled=2)
    with pytest.raises(InputError, match=r"'positive' has 12 examples in .*, but 13"):
        sst2.prompts(TOKENIZER, shots=(1, 13))
