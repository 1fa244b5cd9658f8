"""Select the examples for demonstrations and queries, and their order: the authors' draws, and others.

Wang et al. 2023 shuffle with numpy's legacy generator and Hugging Face's ``dataset.shuffle``; the same seeds
give the same rows here, from private generators.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from math import factorial
from reprlib import repr as shorten
from typing import Literal

import numpy as np

from mechicl.errors import DoesNotFit, InputError, check_count
from mechicl.tasks.examples import Examples, Splits

Order = Literal["encounter", "class", "reversed"] | Sequence[int]
Policy = Literal["per_seed", "per_prompt"]
Counts = int | Sequence[int]
"""A number for every class: one for all, or one per class in class order."""


def by_class(counts: Counts, class_names: Sequence[str], what: str) -> tuple[int, ...]:
    """A number for each class.

    Raises:
        InputError: One is negative, or their number is not the number of classes.
    """
    numbers = tuple(counts) if isinstance(counts, Iterable) else (counts,) * len(class_names)
    if len(numbers) != len(class_names) or not all(isinstance(n, int | np.integer) and n >= 0 for n in numbers):
        raise InputError(
            f"{what} is {shorten(counts)}; give one number, 0 or more, or one for each of the {len(class_names)} "
            f"classes: {', '.join(class_names)}."
        )
    return numbers


def walk(examples: Examples, seed: int, counts: Sequence[Counts], class_names: Sequence[str]) -> list[list[int]]:
    """Walk the shuffled examples and fill one set after another (``sample_two_set_with_shot_per_class``).

    Args:
        counts: How many examples of each class each set takes; an example goes to the first set with room.

    Returns:
        The indices of each set, in order of encounter.

    Raises:
        InputError: A class has too few examples.
    """
    order = list(range(len(examples)))
    np.random.RandomState(seed).shuffle(order)
    sets: list[list[int]] = [[] for _ in counts]
    taken = [0] * len(class_names)
    bounds = np.cumsum([by_class(count, class_names, "shots") for count in counts], axis=0)  # [set class]
    for i in order:
        label_class = examples.classes[i]
        if label_class is None or taken[label_class] == bounds[-1, label_class]:
            continue
        sets[int(np.searchsorted(bounds[:, label_class], taken[label_class], side="right"))].append(i)
        taken[label_class] += 1
    _check_enough(examples, class_names, bounds[-1].tolist())
    return sets


def fresh_draws(
    examples: Examples, seed: int, shots: Counts, n_prompts: int, class_names: Sequence[str]
) -> Iterator[list[int]]:
    """New demonstrations for every prompt (section 2.1): drawn with replacement, with one order of classes per seed."""
    counts = by_class(shots, class_names, "shots")
    _check_enough(examples, class_names, [min(1, count) for count in counts])
    generator = np.random.RandomState(seed)
    members = [examples.of_class(c) for c in range(len(class_names))]
    order = np.random.default_rng(seed).permutation(sum(counts))
    for _ in range(n_prompts):
        drawn = [int(i) for ids, n in zip(members, counts, strict=True) if n for i in generator.choice(ids, n)]
        yield [drawn[k] for k in order]


def query_order(n_queries: int, seed: int, samples: int | None) -> list[int]:
    """The first samples of Hugging Face's ``dataset.shuffle(seed)``."""
    return [int(i) for i in np.random.default_rng(seed).permutation(n_queries)[:samples]]


def arrange(classes: Sequence[int], order: Order) -> Sequence[int]:
    """Indices of drawn demonstrations in the requested order.

    Args:
        classes: The class of each, in order of encounter.
        order: "encounter" as drawn, "class" by class, "reversed", or a permutation of their places.
    """
    places = list(range(len(classes)))
    named = {"encounter": places, "class": sorted(places, key=lambda k: (classes[k], k)), "reversed": places[::-1]}
    chosen = named.get(order) if isinstance(order, str) else list(order) if isinstance(order, Iterable) else None
    if chosen is None or not all(isinstance(k, int | np.integer) for k in chosen) or sorted(chosen) != places:
        raise InputError(
            f"The order is {shorten(order)}; it must be 'encounter', 'class', 'reversed', or a permutation of 0 to "
            f"{len(classes) - 1}, the places of the {len(classes)} demonstrations."
        )
    return chosen


def shown_classes(classes: Sequence[int], mislabelled: Sequence[int]) -> list[int]:
    """The class whose label word each demonstration shows: its own, except that the first `mislabelled` of each class
    show the next class (the last class: the first)."""
    left = list(mislabelled)
    shown = []
    for label_class in classes:
        wrong = left[label_class] > 0
        left[label_class] -= wrong
        shown.append((label_class + wrong) % len(left))
    return shown


def all_permutations(n_demonstrations: int) -> list[tuple[int, ...]]:
    """Every order of this many demonstrations, each a value for ``order=``; InputError above 7."""
    check_count("The number of demonstrations", n_demonstrations, 0)
    if n_demonstrations > 7:
        orders = f"{factorial(n_demonstrations):,}" if n_demonstrations < 20 else "too many"
        raise InputError(f"{n_demonstrations} demonstrations have {orders} orders; all_permutations lists up to 7.")
    return list(permutations(range(n_demonstrations)))


def divide(examples: Examples, seed: int, n_classes: int) -> Splits:
    """Split a single file in two by the seed: half of every class for demonstrations, the rest for queries."""
    generator = np.random.default_rng(seed)
    first: set[int] = set()
    for label_class in range(n_classes):
        members = examples.of_class(label_class)
        chosen = generator.permutation(len(members))[: (len(members) + 1) // 2]
        first.update(members[k] for k in chosen)
    rest = [i for i in range(len(examples)) if i not in first]
    return Splits(examples.select(sorted(first)), examples.select(rest))


def _check_enough(examples: Examples, class_names: Sequence[str], needed: Sequence[int]) -> None:
    for label_class, name in enumerate(class_names):
        found = len(examples.of_class(label_class))
        if found < needed[label_class]:
            raise DoesNotFit(
                f"Class {name!r} has {found} examples in {examples.origin}, but {needed[label_class]} are needed for "
                "the demonstrations asked for",
                "use fewer shots or more data",
            )
