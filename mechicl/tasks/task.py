"""A task, and the prompts made of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from reprlib import repr as shorten
from typing import Any

from mechicl.errors import InputError, check_seed, check_unicode
from mechicl.models.tokenizers import describe_bos
from mechicl.prompts import Prompt, PromptSet, Query, Shot, Template, build_prompts
from mechicl.prompts.building import Anchor
from mechicl.prompts.labels import check_words, without_lone_spaces
from mechicl.tasks.examples import Examples, Splits
from mechicl.tasks.fitting import TooLong, drop_too_long, shorter_texts
from mechicl.tasks.sampling import (
    Counts,
    Order,
    Policy,
    arrange,
    by_class,
    divide,
    fresh_draws,
    query_order,
    shown_classes,
    walk,
)
from mechicl.tasks.sources import Data, as_source
from mechicl.tasks.spelling import warn_if_spelled


@dataclass(frozen=True)
class _Form:
    """How prompts are written and tokenized, whichever examples they hold."""

    tokenizer: Any
    anchor: Anchor
    prepend_bos: bool
    n_ctx: int | None
    too_long: TooLong
    texts: bool = True


@dataclass(frozen=True)
class _Shown:
    """Which demonstrations a prompt shows, in numbers per class, and how they are arranged and labelled."""

    counts: tuple[int, ...]
    mislabelled: tuple[int, ...]
    order: Order

    @classmethod
    def of(cls, task: Task, shots: Counts, mislabelled: Counts, order: Order = "encounter") -> _Shown:
        counts = by_class(shots, task.class_names, "shots")
        wrong = by_class(mislabelled, task.class_names, "mislabelled")
        if any(w > n for w, n in zip(wrong, counts, strict=True)):
            raise InputError(f"mislabelled is {mislabelled} of {shots} demonstrations per class; it cannot be more.")
        return cls(counts, wrong, order)

    @property
    def name(self) -> int | str:
        """The number per class; in words where classes differ or labels are wrong: "4/1", "4 (3/0 mislabelled)"."""
        shots: int | str = self.counts[0] if len(set(self.counts)) == 1 else "/".join(map(str, self.counts))
        return f"{shots} ({'/'.join(map(str, self.mislabelled))} mislabelled)" if any(self.mislabelled) else shots


@dataclass(frozen=True)
class Task:
    """What is asked: a template, a label word for each class, and where the examples come from.

    >>> Task("jokes", "Line: {text}\\nFunny:{label}", {"no": " No", "yes": " Yes"}, "jokes.csv")
    """

    name: str
    template: str
    """With ``{text}`` and then ``{label}``; a query is the template up to its label."""
    label_words: Mapping[str, str]
    """The word of each class by its name, usually with a leading space, in class order."""
    source: Data | None = None
    """A file, a folder, rows ``{"text": ..., "label": ...}``, "train" and "test" rows, or a Source."""
    query_split: str = "test"
    """The split to ask about, where the source has several; demonstrations come from "train"."""
    separator: str = "\n"
    """Between the blocks of a prompt."""

    def __post_init__(self) -> None:
        self._check_texts()
        if len(self.label_words) < 2:
            raise InputError(f"The task {self.name!r} has {len(self.label_words)} classes; it needs two or more.")
        check_words(tuple(self.label_words.values()), self.class_names)
        Template.parse(self.template, self.separator)

    def _check_texts(self) -> None:
        """Raise InputError unless all that a tokenizer may see is text, without halves of characters."""
        if not isinstance(self.label_words, Mapping):
            raise InputError(f"label_words is {shorten(self.label_words)}; expected a word for each class by its name.")
        texts: dict[str, Any] = {f"class name {name!r}": name for name in self.label_words}
        texts |= {f"label word of {name!r}": word for name, word in self.label_words.items()}
        texts |= {"template": self.template, "separator": self.separator, "name": self.name}
        for what, text in texts.items():
            if not isinstance(text, str):
                raise InputError(f"The {what} of a task is {shorten(text)}; expected a text.")
            check_unicode(text, f"The {what} of a task")

    @property
    def class_names(self) -> tuple[str, ...]:
        """In class order."""
        return tuple(self.label_words)

    def for_seed(self, seed: int) -> Task:
        """The task as this seed asks it: itself, except where the seed draws classes and label words."""
        check_seed(seed)
        return self

    @cached_property
    def splits(self) -> Splits:
        """The examples, read once; InputError where they cannot be."""
        return as_source(self.source, self.name).load(self.class_names, self.query_split)

    def prompts(
        self,
        tokenizer: Any,
        *,
        shots: Counts = 1,
        mislabelled: Counts = 0,
        samples: int | None = None,
        seed: int = 42,
        demonstrations: Policy = "per_seed",
        order: Order = "encounter",
        anchor: Anchor = "first",
        prepend_bos: bool = False,
        n_ctx: int | None = None,
        too_long: TooLong = "refuse",
        demonstration_text: bool = True,
        rows: Sequence[int] | None = None,
        room_for: Counts | None = None,
    ) -> PromptSet:
        """Prompts that ask about examples of the query split; the draws are the authors' for the same seed
        and data.

        Args:
            tokenizer: A fast tokenizer.
            shots: Demonstrations per class, or of each class in class order, such as ``(4, 1)``; 0 asks
                without any.
            mislabelled: How many of them carry the label word of the next class in order: ``(3, 0)`` biases
                two classes towards the second. The first drawn are the wrong ones.
            samples: How many queries, at most; None for all.
            demonstrations: "per_seed", the same for all queries (the paper's experiments from section 2.2
                on), or "per_prompt", fresh for each and drawn with replacement (section 2.1).
            order: "encounter" as drawn, "class", "reversed", or a permutation
                (:func:`~mechicl.tasks.all_permutations`).
            anchor: Which sub-token of a label word is its anchor.
            prepend_bos: Put the tokenizer's BOS token first; the paper has none.
            n_ctx: The model's context length in tokens, which no prompt may exceed.
            too_long: What becomes of prompts over ``n_ctx``: "refuse" raises; "drop" leaves them out;
                "shorter" draws only from examples short enough that every prompt fits. Nothing is ever cut.
            demonstration_text: False leaves the texts of the demonstrations out (the paper's Text_anchor).
            rows: Ask about these rows of the query split, in this order, instead of drawing.
            room_for: With ``too_long="shorter"`` draw from the examples of prompts with so many shots, so
                that fewer and more shots are of the same examples; what does not fit is refused.

        Raises:
            DoesNotFit: A class has too few examples, or a prompt is too long; an InputError.
            InputError: The data cannot be used, or the label words cannot tell the classes apart under this
                tokenizer.
        """
        form = _Form(tokenizer, anchor, prepend_bos, n_ctx, too_long, demonstration_text)
        if samples is not None and samples < 1:
            raise InputError(f"samples={samples}: samples must be 1 or more; None takes all.")
        task = self.for_seed(seed)
        shown = _Shown.of(task, shots, mislabelled, order)
        room = shown.counts if room_for is None else by_class(room_for, task.class_names, "room_for")
        pool, asked = task._pools(form, seed, room)
        chosen = asked.at_rows(rows) if rows is not None else query_order(len(asked), seed, samples)
        drawn = task._draw(demonstrations, pool, seed, shown.counts, len(chosen))
        contents = [(task._shots(pool, ids, shown), _query(asked, i)) for ids, i in zip(drawn, chosen, strict=False)]
        origin = {"demonstrations": demonstrations, "order": order if isinstance(order, str) else list(order)}
        built = task._build(form, contents, seed, shown.name, origin)
        warn_if_spelled(built, self.name)
        if rows is None and samples is not None and len(built) < samples:
            _warn_of_fewer(built, samples, len(asked), too_long)
        return built

    def auxiliary_prompts(
        self,
        tokenizer: Any,
        *,
        shots: Counts = 1,
        mislabelled: Counts = 0,
        per_class: int = 4,
        seed: int = 42,
        order: Order = "encounter",
        anchor: Anchor = "first",
        prepend_bos: bool = False,
        n_ctx: int | None = None,
        too_long: TooLong = "refuse",
    ) -> PromptSet:
        """Training prompts for re-weighting (section 3.1): the demonstrations of :meth:`prompts`, asked about
        the next ``per_class`` examples of every class in the same walk through the demonstration split."""
        form = _Form(tokenizer, anchor, prepend_bos, n_ctx, too_long)
        task = self.for_seed(seed)
        shown = _Shown.of(task, shots, mislabelled, order)
        pool, _ = task._pools(form, seed, shown.counts)
        first, second = walk(pool, seed, (shown.counts, per_class), task.class_names)
        demonstrations = task._shots(pool, first, shown)
        contents = [(demonstrations, _query(pool, i)) for i in second]
        origin = {"demonstrations": "per_seed", "queries": "auxiliary", "per_class": per_class}
        return task._build(form, contents, seed, shown.name, origin)

    def content_free_prompts(
        self,
        tokenizer: Any,
        *,
        texts: Sequence[str] = ("N/A", "[MASK]", ""),
        shots: Counts = 1,
        mislabelled: Counts = 0,
        seed: int = 42,
        order: Order = "encounter",
        anchor: Anchor = "first",
        prepend_bos: bool = False,
        n_ctx: int | None = None,
        too_long: TooLong = "refuse",
    ) -> PromptSet:
        """The demonstrations of :meth:`prompts`, asked about texts that say nothing (Zhao et al. 2021)."""
        form = _Form(tokenizer, anchor, prepend_bos, n_ctx, too_long)
        task = self.for_seed(seed)
        shown = _Shown.of(task, shots, mislabelled, order)
        pool, _ = task._pools(form, seed, shown.counts)
        (drawn,) = walk(pool, seed, (shown.counts,), task.class_names)
        contents = [(task._shots(pool, drawn, shown), Query(text)) for text in texts]
        return task._build(form, contents, seed, shown.name, {"demonstrations": "per_seed", "queries": list(texts)})

    def context_prompts(
        self,
        tokenizer: Any,
        *,
        contexts: int = 64,
        shots: Counts = 1,
        mislabelled: Counts = 0,
        seed: int = 42,
        anchor: Anchor = "first",
        prepend_bos: bool = False,
        n_ctx: int | None = None,
        too_long: TooLong = "refuse",
        rows: Sequence[int] | None = None,
    ) -> PromptSet:
        """Prompts for error diagnosis (section 3.3): query i, in the order of the data, behind context i
        modulo ``contexts``. Context k holds the k-th ``shots`` examples of every class in the seed's walk, in
        class order; context 0 is that of ``prompts(order="class")``."""
        form = _Form(tokenizer, anchor, prepend_bos, n_ctx, too_long)
        task = self.for_seed(seed)
        each = _Shown.of(task, shots, mislabelled, "class")
        pool, asked = task._pools(form, seed, each.counts)
        (drawn,) = walk(pool, seed, ([contexts * n for n in each.counts],), task.class_names)
        members = [[i for i in drawn if pool.classes[i] == c] for c in range(len(task.class_names))]
        ids = [[i for own, n in zip(members, each.counts, strict=True) for i in own[k * n : (k + 1) * n]]
               for k in range(contexts)]  # fmt: skip
        shown = [task._shots(pool, context, each) for context in ids]
        chosen = asked.at_rows(rows) if rows is not None else list(range(len(asked)))
        contents = [(shown[k % contexts], _query(asked, i)) for k, i in enumerate(chosen)]
        return task._build(form, contents, seed, each.name, {"demonstrations": "contexts", "contexts": contexts})

    def _pools(self, form: _Form, seed: int, counts: Sequence[int]) -> tuple[Examples, Examples]:
        """Examples for demonstrations and for queries."""
        splits = self.splits
        if splits.queries is None:
            splits = divide(splits.demonstrations, seed, len(self.class_names))
        assert splits.queries is not None
        pools = splits.demonstrations, splits.queries
        if form.too_long != "shorter":
            return pools
        if form.n_ctx is None:
            raise InputError("too_long='shorter' needs n_ctx, the number of tokens that prompts must fit in.")
        room = (form.n_ctx - form.prepend_bos) // (sum(counts) + 1)
        words = self._words(form.tokenizer)
        template = Template.parse(self.template, self.separator)
        return shorter_texts(form.tokenizer, template, words, room, pools)

    def _draw(
        self, policy: Policy, pool: Examples, seed: int, counts: Sequence[int], n_prompts: int
    ) -> Iterator[Sequence[int]]:
        """Indices of each prompt's demonstrations, in order of encounter."""
        if not any(counts):
            yield from [()] * n_prompts
        elif policy == "per_seed":
            yield from walk(pool, seed, (counts,), self.class_names) * n_prompts
        elif policy == "per_prompt":
            yield from fresh_draws(pool, seed, counts, n_prompts, self.class_names)
        else:
            raise InputError(f"demonstrations={policy!r}; it must be 'per_seed' or 'per_prompt'.")

    def _shots(self, pool: Examples, indices: Sequence[int], shown: _Shown) -> list[Shot]:
        classes = [_known(pool.classes[i]) for i in indices]
        labels = shown_classes(classes, shown.mislabelled)
        places = arrange(range(len(indices)), classes, shown.order)
        return [Shot(pool.texts[indices[k]], labels[k], pool.rows[indices[k]]) for k in places]

    def _words(self, tokenizer: Any) -> tuple[str, ...]:
        """Label words as this tokenizer can tell them apart."""
        template = Template.parse(self.template, self.separator)
        words = tuple(self.label_words.values())
        usable = without_lone_spaces(tokenizer, template, words)
        if usable != words:
            warnings.warn(
                f"This tokenizer splits the leading space off label words of {self.name!r}, so that several "
                "would begin with the same token; they are written without it: "
                f"{', '.join(map(repr, usable))}.",
                stacklevel=4,
            )
        return usable

    def _build(
        self, form: _Form, contents: list[tuple[list[Shot], Query]], seed: int, shots: int | str, origin: dict[str, Any]
    ) -> PromptSet:
        if not contents:
            raise InputError(f"The task {self.name!r} has no examples left to ask about; give more data.")
        if not form.texts:
            contents = [([Shot(None, s.label_class, s.row) for s in shown], query) for shown, query in contents]
        prompts: Sequence[Prompt] = build_prompts(
            form.tokenizer,
            Template.parse(self.template, self.separator),
            self._words(form.tokenizer),
            contents,
            class_names=self.class_names,
            anchor=form.anchor,
            prepend_bos=form.prepend_bos,
            n_ctx=None if form.too_long == "drop" else form.n_ctx,
            task=self.name,
        )
        if form.too_long == "drop":
            prompts = drop_too_long(prompts, form.n_ctx)
        written: dict[str, Any] = {
            "anchor": form.anchor, "prepend_bos": form.prepend_bos, "too_long": form.too_long,
            **({"bos": describe_bos(form.tokenizer)} if form.prepend_bos else {}),
        }  # fmt: skip
        return PromptSet(
            tuple(prompts),
            self.name,
            seed,
            shots,
            {"template": self.template, **origin, **written, "data": self._data()},
        )

    def _data(self) -> dict[str, str]:
        """Which data it was, in words and by digest."""
        named = {"demonstrations": self.splits.demonstrations, "queries": self.splits.queries}
        return {
            key: value
            for part, examples in named.items()
            if examples is not None
            for key, value in ((part, examples.origin), (f"{part}_digest", examples.digest()))
        }


def _warn_of_fewer(built: PromptSet, samples: int, in_data: int, too_long: TooLong) -> None:
    """Say how many prompts there are instead of those asked for, and why."""
    reasons = [f"the data have {in_data} to ask about" + (" that are short enough" if too_long == "shorter" else "")]
    dropped = min(samples, in_data) - len(built)
    if dropped:
        reasons = [*(reasons if in_data < samples else []), f"{dropped} did not fit the context and were dropped"]
    warnings.warn(
        f"{built.task}, seed {built.seed}: {len(built)} prompts of the {samples} asked for; {', and '.join(reasons)}.",
        stacklevel=3,
    )


def _query(examples: Examples, i: int) -> Query:
    return Query(examples.texts[i], examples.classes[i], examples.rows[i])


def _known(label_class: int | None) -> int:
    assert label_class is not None, "a demonstration is drawn by its class"
    return label_class
