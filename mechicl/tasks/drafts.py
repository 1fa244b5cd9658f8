"""Prompts of a task and seed under construction: which examples they show and ask about, and how they are written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from reprlib import repr as shorten
from typing import TYPE_CHECKING, Any, get_args

from mechicl.errors import InputError, check_choice, check_count
from mechicl.models.tokenizers import check_fast, describe_bos
from mechicl.prompts import Prompt, PromptSet, Query, Shot, Template, build_prompts
from mechicl.prompts.building import Anchor
from mechicl.prompts.chat import chat_layout
from mechicl.prompts.labels import without_lone_spaces
from mechicl.tasks.examples import Examples
from mechicl.tasks.fitting import TooLong, drop_too_long, shorter_texts
from mechicl.tasks.sampling import Counts, Order, Policy, arrange, by_class, divide, fresh_draws, shown_classes, walk

if TYPE_CHECKING:
    from mechicl.tasks.task import Task


@dataclass(frozen=True)
class Form:
    """How prompts are written and tokenized, whatever their examples."""

    tokenizer: Any
    anchor: Anchor
    prepend_bos: bool
    n_ctx: int | None
    too_long: TooLong
    texts: bool = True

    def __post_init__(self) -> None:
        check_fast(self.tokenizer)
        check_choice("anchor", self.anchor, get_args(Anchor))
        check_choice("too_long", self.too_long, get_args(TooLong))
        for what, value in (("prepend_bos", self.prepend_bos), ("demonstration_text", self.texts)):
            if not isinstance(value, bool):
                raise InputError(f"{what} is {shorten(value)}; expected True or False.")
        if self.n_ctx is not None:
            check_count("n_ctx", self.n_ctx)


@dataclass(frozen=True)
class Draft:
    """A task with a seed's draw, its form, and its demonstrations: numbers per class and their order."""

    task: Task
    seed: int
    form: Form
    counts: tuple[int, ...]
    mislabelled: tuple[int, ...]
    order: Order

    @classmethod
    def of(cls, task: Task, form: Form, seed: int, shots: Counts, mislabelled: Counts, order: Order) -> Draft:
        """Raises InputError for numbers that the task's classes cannot have."""
        task = task.for_seed(seed)
        counts = by_class(shots, task.class_names, "shots")
        wrong = by_class(mislabelled, task.class_names, "mislabelled")
        if any(w > n for w, n in zip(wrong, counts, strict=True)):
            raise InputError(f"mislabelled is {mislabelled} of {shots} demonstrations per class; it cannot be more.")
        return cls(task, seed, form, counts, wrong, order)

    @property
    def shots(self) -> int | str:
        """The number per class; as text if classes differ or labels are wrong: "4/1", "4 (3/0 mislabelled)"."""
        shots: int | str = self.counts[0] if len(set(self.counts)) == 1 else "/".join(map(str, self.counts))
        return f"{shots} ({'/'.join(map(str, self.mislabelled))} mislabelled)" if any(self.mislabelled) else shots

    @cached_property
    def template(self) -> Template:
        """The task's examples, already read."""
        return Template.parse(self.task.template, self.task.separator)

    def pools(self, counts: Sequence[int]) -> tuple[Examples, Examples]:
        """Examples for demonstrations and for queries; with too_long="shorter", those that fit with all shots."""
        splits = self.task.splits
        if splits.queries is None:
            splits = divide(splits.demonstrations, self.seed, len(self.counts))
        assert splits.queries is not None
        pools = splits.demonstrations, splits.queries
        if self.form.too_long != "shorter":
            return pools
        if self.form.n_ctx is None:
            raise InputError("too_long='shorter' needs n_ctx, the number of tokens that prompts must fit in.")
        room = (self.form.n_ctx - self.form.prepend_bos) // (sum(counts) + 1)
        template, words = self.template, self._words()
        if self.task.chat:  # its first turn is the longest, because it follows the system message
            layout = chat_layout(self.form.tokenizer, template, words, 1)
            template, words = layout.templates[0], layout.label_words
        return shorter_texts(self.form.tokenizer, template, words, room, pools)

    def draw(self, policy: Policy, pool: Examples, n_prompts: int) -> Iterator[Sequence[int]]:
        """Indices of each prompt's demonstrations, in order of encounter."""
        names = self.task.class_names
        check_choice("demonstrations", policy, get_args(Policy))
        if not any(self.counts):
            yield from [()] * n_prompts
        elif policy == "per_seed":
            yield from walk(pool, self.seed, (self.counts,), names) * n_prompts
        else:
            yield from fresh_draws(pool, self.seed, self.counts, n_prompts, names)

    def shown(self, pool: Examples, indices: Sequence[int]) -> list[Shot]:
        """The demonstrations at these indices, arranged and labelled."""
        classes = [c for c in (pool.classes[i] for i in indices) if c is not None]  # never None: drawn by class
        labels = shown_classes(classes, self.mislabelled)
        places = arrange(classes, self.order)
        return [Shot(pool.texts[indices[k]], labels[k], pool.rows[indices[k]]) for k in places]

    def _words(self) -> tuple[str, ...]:
        """Label words in a form that this tokenizer can distinguish."""
        words = tuple(self.task.label_words.values())
        if self.task.chat or self.task.score == "sequence":  # there is no space in front, or it is scored with the rest
            return words
        usable = without_lone_spaces(self.form.tokenizer, self.template, words)
        if usable != words:
            warnings.warn(
                f"This tokenizer splits the leading space off label words of {self.task.name!r}, which says "
                "nothing about the class; they are written without it: "
                f"{', '.join(map(repr, usable))}.",
                stacklevel=4,
            )
        return usable

    def build(self, contents: list[tuple[list[Shot], Query]], origin: dict[str, Any]) -> PromptSet:
        """The prompts with these demonstrations and queries; `origin` says how they were drawn."""
        form, name = self.form, self.task.name
        if not contents:
            where = self.task.splits.demonstrations.origin
            raise InputError(
                f"The task {name!r} has no examples left to ask about in {where}; give more data, or any rows or texts."
            )
        if not form.texts:
            contents = [([Shot(None, s.label_class, s.row) for s in shown], query) for shown, query in contents]
        prompts: Sequence[Prompt] = build_prompts(
            form.tokenizer, self.template, self._words(), contents, class_names=self.task.class_names,
            anchor=form.anchor, prepend_bos=form.prepend_bos, n_ctx=None if form.too_long == "drop" else form.n_ctx,
            task=name, chat=self.task.chat, score=self.task.score,
        )  # fmt: skip
        if form.too_long == "drop":
            prompts = drop_too_long(prompts, form.n_ctx)
        origin = {
            "template": self.task.template, **origin, "anchor": form.anchor, "prepend_bos": form.prepend_bos,
            "too_long": form.too_long, **({"bos": describe_bos(form.tokenizer)} if form.prepend_bos else {}),
            "data": self._data(), **({"chat": True} if self.task.chat else {}),
            **({"score": self.task.score} if self.task.score != "first" else {}),
        }  # fmt: skip
        return PromptSet(tuple(prompts), name, self.seed, self.shots, origin)

    def _data(self) -> dict[str, str]:
        """The data, in words and by digest."""
        splits = self.task.splits
        data = {"demonstrations": splits.demonstrations.origin, "demonstrations_digest": splits.demonstrations.digest()}
        if splits.queries is not None:
            data |= {"queries": splits.queries.origin, "queries_digest": splits.queries.digest()}
        return data


def query_of(examples: Examples, i: int) -> Query:
    """A question about one of the examples."""
    return Query(examples.texts[i], examples.classes[i], examples.rows[i])
