"""A task, and the prompts made from it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from reprlib import repr as shorten
from typing import Any, get_args

from mechicl.doors import door
from mechicl.errors import InputError, check_count, check_seed, check_unicode
from mechicl.models.tokenizers import warn_if_spelled
from mechicl.prompts import PromptSet, Query, Score, Shot, Template
from mechicl.prompts.building import Anchor
from mechicl.prompts.labels import check_words
from mechicl.tasks.drafts import Draft, Form, query_of
from mechicl.tasks.examples import Splits
from mechicl.tasks.fitting import TooLong
from mechicl.tasks.sampling import Counts, Order, Policy, by_class, query_order, walk
from mechicl.tasks.sources import Data, as_source

_LOOKED_AT = 8
"""Number of prompts on which to test whether the tokenizer spells words out; a task's prompts are alike."""

_FEW = 5
"""Up to this number, all prompts may be of one class by chance."""


@partial(door, kinds=False)
@dataclass(frozen=True)
class Task:
    """A task: a template, a label word for each class, and a source of examples.

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
    """The split to ask about, if the source has several; demonstrations come from "train". With "train", each seed
    splits it in two."""
    separator: str = "\n"
    """Text between the blocks of a prompt."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns of texts and labels, such as ``{"text": "body", "label": "stars"}``; the usual names (text, sentence,
    label, ...) need not be given."""
    chat: bool = False
    """Write every example as a turn of a conversation, in the tokenizer's own chat template: a text with the template
    around it is the user's, a label word without its leading space the answer."""
    score: Score = "first"
    """"first": the first token of its label word scores a class, as in the paper. "sequence": the log-probability of
    the whole word does, which takes a pass more for each class whose word has several tokens."""

    def __post_init__(self) -> None:
        self._check_texts()
        if len(self.label_words) < 2:
            raise InputError(f"The task {self.name!r} has {len(self.label_words)} classes; it needs two or more.")
        check_words(tuple(self.label_words.values()), self.class_names)
        if not isinstance(self.chat, bool) or self.score not in get_args(Score):
            raise InputError(
                f"chat is {shorten(self.chat)} and score is {shorten(self.score)}; chat is True or False, score "
                "'first' or 'sequence'."
            )
        Template.parse(self.template, self.separator)
        if self.source is not None:
            as_source(self.source, self.name, self.columns)

    def _check_texts(self) -> None:
        """Raise InputError unless everything that a tokenizer may see is text, without lone surrogates."""
        if not isinstance(self.label_words, Mapping):
            raise InputError(f"label_words is {shorten(self.label_words)}; expected a word for each class by its name.")
        if not isinstance(self.columns, Mapping) or not set(self.columns) <= {"text", "label"}:
            raise InputError(f"columns is {shorten(self.columns)}; expected the columns of 'text' and 'label'.")
        if len(set(map(str, self.columns.values()))) < len(self.columns):
            raise InputError(f"columns is {shorten(self.columns)}; text and label need a column each.")
        texts: dict[str, Any] = {f"class name {name!r}": name for name in self.label_words}
        texts |= {f"label word of {name!r}": word for name, word in self.label_words.items()}
        texts |= {f"column of {what!r}": name for what, name in self.columns.items()}
        texts |= {
            "template": self.template,
            "separator": self.separator,
            "name": self.name,
            "query split": self.query_split,
        }
        for what, text in texts.items():
            if not isinstance(text, str):
                raise InputError(f"The {what} of a task is {shorten(text)}; expected a text.")
            check_unicode(text, f"The {what} of a task")

    @property
    def class_names(self) -> tuple[str, ...]:
        """In class order."""
        return tuple(self.label_words)

    def for_seed(self, seed: int) -> Task:
        """The task for this seed: unchanged, unless the seed draws classes and label words."""
        check_seed(seed)
        return self

    @cached_property
    def splits(self) -> Splits:
        """The examples, read only once; InputError if they cannot be read."""
        found = as_source(self.source, self.name, self.columns).load(self.class_names, self.query_split)
        # The same texts are not shown and asked about: each seed splits them.
        return Splits(found.demonstrations) if self.query_split == "train" else found

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
        """Prompts that ask about examples of the query split; draws equal the authors' for the same seed and data.

        Args:
            tokenizer: A fast tokenizer.
            shots: Demonstrations per class, or one number per class in class order, such as ``(4, 1)``; 0 for none.
            mislabelled: Number of them with the label word of the next class in order: ``(3, 0)`` biases two classes
                towards the second. The first drawn are the mislabelled ones.
            samples: Largest number of queries; None for all.
            demonstrations: "per_seed", the same for all queries (the paper's experiments from section 2.2 on), or
                "per_prompt", new for each and drawn with replacement (section 2.1).
            order: "encounter" as drawn, "class", "reversed", or a permutation
                (:func:`~mechicl.tasks.all_permutations`).
            anchor: Which sub-token of a label word is its anchor.
            prepend_bos: Put the tokenizer's BOS token first; the paper does not.
            n_ctx: The model's context length in tokens, which no prompt may exceed.
            too_long: What to do with prompts over ``n_ctx``: "refuse" raises; "drop" leaves them out; "shorter" draws
                only from examples short enough that every prompt fits. No prompt is ever truncated.
            demonstration_text: False leaves the texts of the demonstrations out (the paper's Text_anchor).
            rows: Ask about these rows of the query split, in this order, instead of drawing.
            room_for: With ``too_long="shorter"``, draw from examples short enough for prompts with this number of
                shots, so that fewer and more shots use the same examples; prompts that do not fit raise.

        Raises:
            DoesNotFit: A class has too few examples, or a prompt is too long; an InputError.
            InputError: The data cannot be used, or the label words cannot tell the classes apart under this
                tokenizer.
        """
        if samples is not None:
            check_count("samples", samples)
        form = Form(tokenizer, anchor, prepend_bos, n_ctx, too_long, demonstration_text)
        draft = Draft.of(self, form, seed, shots, mislabelled, order)
        room = draft.counts if room_for is None else by_class(room_for, draft.task.class_names, "room_for")
        pool, asked = draft.pools(room)
        chosen = asked.at_rows(rows) if rows is not None else query_order(len(asked), seed, samples)
        drawn = draft.draw(demonstrations, pool, len(chosen))
        contents = [(draft.shown(pool, ids), query_of(asked, i)) for ids, i in zip(drawn, chosen, strict=False)]
        named = order if isinstance(order, str) else list(order)
        built = draft.build(contents, {"demonstrations": demonstrations, "order": named})
        warn_if_spelled(
            (one.string[start:end] for one in built[:_LOOKED_AT] for start, end in one.offsets or ()),
            self.name, "this language", "tiny-icl speaks only that of tiny-topics-2 and tiny-topics-4",
        )  # fmt: skip
        if demonstration_text:
            _warn_of_shown(built.task, seed, contents)
        if rows is None and samples is not None and len(built) < samples:
            _warn_of_fewer(built, samples, len(asked), too_long)
        if len(built) >= _FEW and len(classes := {prompt.gold for prompt in built}) == 1 and classes != {None}:
            warnings.warn(
                f"{built.task}, seed {built.seed}: all {len(built)} prompts ask about texts of one class, so accuracy "
                "and confusion say nothing of the other classes.",
                stacklevel=2,
            )
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
        check_count("per_class", per_class)
        draft = Draft.of(self, Form(tokenizer, anchor, prepend_bos, n_ctx, too_long), seed, shots, mislabelled, order)
        pool, _ = draft.pools(draft.counts)
        first, second = walk(pool, seed, (draft.counts, per_class), draft.task.class_names)
        demonstrations = draft.shown(pool, first)
        contents = [(demonstrations, query_of(pool, i)) for i in second]
        return draft.build(contents, {"demonstrations": "per_seed", "queries": "auxiliary", "per_class": per_class})

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
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"texts is {shorten(texts)}; expected a list of texts.")
        draft = Draft.of(self, Form(tokenizer, anchor, prepend_bos, n_ctx, too_long), seed, shots, mislabelled, order)
        pool, _ = draft.pools(draft.counts)
        (drawn,) = walk(pool, seed, (draft.counts,), draft.task.class_names)
        contents = [(draft.shown(pool, drawn), Query(text)) for text in texts]
        return draft.build(contents, {"demonstrations": "per_seed", "queries": list(texts)})

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
        """Prompts for error diagnosis (section 3.3): query i, in the order of the data, after context i modulo
        ``contexts``. Context k holds the k-th ``shots`` examples of every class in the seed's walk, in class order;
        context 0 is that of ``prompts(order="class")``."""
        check_count("contexts", contexts)
        draft = Draft.of(self, Form(tokenizer, anchor, prepend_bos, n_ctx, too_long), seed, shots, mislabelled, "class")
        pool, asked = draft.pools(draft.counts)
        (drawn,) = walk(pool, seed, ([contexts * n for n in draft.counts],), draft.task.class_names)
        members = [[i for i in drawn if pool.classes[i] == c] for c in range(len(draft.counts))]
        ids = [[i for own, n in zip(members, draft.counts, strict=True) for i in own[k * n : (k + 1) * n]]
               for k in range(contexts)]  # fmt: skip
        shown = [draft.shown(pool, context) for context in ids]
        chosen = asked.at_rows(rows) if rows is not None else list(range(len(asked)))
        contents = [(shown[k % contexts], query_of(asked, i)) for k, i in enumerate(chosen)]
        return draft.build(contents, {"demonstrations": "contexts", "contexts": contexts})


def _warn_of_shown(task: str, seed: int, contents: Sequence[tuple[Sequence[Shot], Query]]) -> None:
    """Warn of queries whose text is one of their own demonstrations, which gives the answer away."""
    shown = sum(query.text in {shot.text for shot in shots} for shots, query in contents if query.text)
    if shown:
        warnings.warn(
            f"{task}, seed {seed}: {shown} of {len(contents)} queries drawn have a text that is among their own "
            "demonstrations, where its label can be read; the data hold it several times.",
            stacklevel=3,
        )


def _warn_of_fewer(built: PromptSet, samples: int, in_data: int, too_long: TooLong) -> None:
    """Warn that there are fewer prompts than requested, and why."""
    reasons = [f"the data have {in_data} to ask about" + (" that are short enough" if too_long == "shorter" else "")]
    dropped = min(samples, in_data) - len(built)
    if dropped:
        reasons = [*(reasons if in_data < samples else []), f"{dropped} did not fit the context and were dropped"]
    warnings.warn(
        f"{built.task}, seed {built.seed}: {len(built)} prompts of the {samples} asked for; {', and '.join(reasons)}.",
        stacklevel=3,
    )
