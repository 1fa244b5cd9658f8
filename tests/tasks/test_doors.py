"""Python's doors to tasks: wrong arguments end in one sentence, as on the command line, and never in a TypeError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mechicl.errors import InputError
from mechicl.tasks import FileSource, RowsSource, Task, all_permutations, load_task
from tests.prompts.vocabularies import byte_level

TOKENIZER = byte_level(" A", " B")
ROWS = [{"text": f"text {i}", "label": "no" if i % 2 else "yes"} for i in range(12)]
DEFAULTS: dict[str, Any] = {
    "name": "t", "template": "{text}\nA:{label}", "label_words": {"no": " A", "yes": " B"}, "source": ROWS,
    "query_split": "test", "separator": "\n", "columns": {},
}  # fmt: skip
TASK = Task(**DEFAULTS)
ODD = [
    None, -1, 0, 2.5, "a", True, 5, [], [1], {}, {1: 2}, (1, 2, 3), b"x", float("nan"), object(), 10**30, [None, 1],
    ["a", "b"], [[1], [2]], np.int64(3), np.array([1, 2]), print, int, "half \ud83d",
]  # fmt: skip
DRAWN = ("shots", "mislabelled", "seed", "order", "anchor", "prepend_bos", "n_ctx", "too_long")
DOORS: dict[str, Callable[[Any], Any]] = {
    **{f"Task.{name}": lambda odd, name=name: Task(**{**DEFAULTS, name: odd}).splits for name in DEFAULTS},
    **{
        f"prompts.{name}": lambda odd, name=name: TASK.prompts(TOKENIZER, **{name: odd})
        for name in (*DRAWN, "samples", "demonstrations", "rows", "room_for")
    },
    **{
        f"auxiliary_prompts.{name}": lambda odd, name=name: TASK.auxiliary_prompts(TOKENIZER, **{name: odd})
        for name in (*DRAWN, "per_class")
    },
    **{
        f"content_free_prompts.{name}": lambda odd, name=name: TASK.content_free_prompts(TOKENIZER, **{name: odd})
        for name in (*DRAWN, "texts")
    },
    **{
        f"context_prompts.{name}": lambda odd, name=name: TASK.context_prompts(TOKENIZER, **{name: odd})
        for name in (*(set(DRAWN) - {"order"}), "contexts", "rows")
    },
    "tokenizer": lambda odd: TASK.prompts(odd),
    "load_task": lambda odd: load_task(odd),
    "load_task.data": lambda odd: load_task("sst2", data=odd if odd is not None else [odd]).splits,
    "load_task.label_words": lambda odd: load_task("sst2", label_words=odd),
    "load_task.columns": lambda odd: load_task("reviews", columns=odd),
    "for_seed": lambda odd: TASK.for_seed(odd),
    "all_permutations": lambda odd: all_permutations(odd),
    "FileSource": lambda odd: FileSource(odd).load(("no", "yes"), "test"),
    "RowsSource": lambda odd: RowsSource(odd).load(("no", "yes"), "test"),
    "text": lambda odd: Task(**{**DEFAULTS, "source": [{"text": odd, "label": "no"}]}).splits,
    "label": lambda odd: Task(**{**DEFAULTS, "source": [{"text": "a", "label": odd}]}).splits,
    "test rows": lambda odd: Task(**{**DEFAULTS, "source": {"train": ROWS, "test": odd}}).splits,
}
REFUSED = ("tokenizer", "FileSource", "RowsSource", "load_task.label_words", "text")
"""Doors that nearly nothing odd goes through: the control, which shows that something is refused at all."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("door", sorted(DOORS))
def test_wrong_arguments_end_in_one_sentence(door: str) -> None:
    messages = []
    for odd in ODD:
        try:
            DOORS[door](odd)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > (len(ODD) - 4 if door in REFUSED else 0)
    assert "\n" not in "".join(messages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": -1}, "samples is -1; give a whole number, at least 1"),
        ({"samples": 2.5}, "samples is 2.5; give a whole number, at least 1"),
        ({"samples": "a"}, "samples is 'a'; give a whole number, at least 1"),
        ({"shots": -1}, "shots is -1; give one number, 0 or more, or one for each of the 2 classes: no, yes"),
        ({"shots": "a"}, "shots is 'a'; give one number"),
        ({"seed": 1.5}, "The seed is 1.5; choose one from 0 to"),
        ({"too_long": "cut"}, "too_long is 'cut'; it must be 'refuse' or 'drop' or 'shorter'"),
        ({"anchor": "middle"}, "anchor is 'middle'; it must be 'first'"),
        ({"n_ctx": 0}, "n_ctx is 0; give a whole number, at least 1"),
        ({"order": 5}, "The order is 5; it must be"),
        ({"rows": "a"}, "rows is 'a'; expected numbers of rows"),
    ],
)
def test_a_refusal_names_the_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.prompts(TOKENIZER, **arguments)


def test_numbers_of_numpy_are_numbers() -> None:
    plain = TASK.prompts(TOKENIZER, shots=2, samples=3, seed=7)
    same = TASK.prompts(TOKENIZER, shots=np.int64(2), samples=np.int64(3), seed=np.int64(7))  # type: ignore[arg-type]
    assert [prompt.tokens for prompt in plain] == [prompt.tokens for prompt in same]
