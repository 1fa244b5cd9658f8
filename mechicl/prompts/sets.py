"""Many prompts: a sequence that knows its task and seed, and the padded batches that a model gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from html import escape
from itertools import groupby
from typing import Any, ClassVar, overload

import torch
from jaxtyping import Int
from torch import Tensor

from mechicl.doors import door
from mechicl.errors import InputError, check_count
from mechicl.prompts.prompt import Prompt


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts as tensors, padded on the right.

    With causal attention no real token sees the padding, so no mask is needed: read at ``target``.
    """

    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch"]
    target: Int[Tensor, "batch"]
    """Position of q: the last real token."""
    anchors: Int[Tensor, "batch anchor"]
    """Position of each demonstration's anchor, in prompt order."""
    anchor_classes: Int[Tensor, "batch anchor"]
    label_ids: Int[Tensor, "class"]
    gold: Int[Tensor, "batch"]
    """True class, -1 where unknown."""
    prompts: tuple[Prompt, ...]

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"PromptBatch({len(self)} prompts of up to {self.tokens.shape[1]} tokens, {self.device})"

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch on another device."""
        names = ("tokens", "lengths", "target", "anchors", "anchor_classes", "label_ids", "gold")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @classmethod
    def of(cls, prompts: Sequence[Prompt], device: torch.device | str | None = None) -> PromptBatch:
        """Pad prompts to the longest.

        Raises:
            InputError: There are no prompts, or they differ in their classes' scoring tokens or in the number of
                demonstrations.
        """
        if not prompts:
            raise InputError("A batch needs at least one prompt; this one has none.")
        _check_same_labels(prompts)
        counts = sorted({len(prompt.anchors) for prompt in prompts})
        if len(counts) > 1:
            raise InputError(
                f"These prompts have {' and '.join(map(str, counts))} demonstrations and cannot share one "
                "batch; use .batches(size), which groups them."
            )
        widest = max(map(len, prompts))
        rows = [[*prompt.tokens, *[0] * (widest - len(prompt))] for prompt in prompts]

        def tensor(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        return cls(
            tokens=tensor(rows),
            lengths=tensor([len(prompt) for prompt in prompts]),
            target=tensor([prompt.target for prompt in prompts]),
            anchors=tensor([prompt.anchors for prompt in prompts]).reshape(len(prompts), counts[0]),
            anchor_classes=tensor([prompt.anchor_classes for prompt in prompts]).reshape(len(prompts), counts[0]),
            label_ids=tensor(prompts[0].label_ids),
            gold=tensor([-1 if prompt.gold is None else prompt.gold for prompt in prompts]),
            prompts=tuple(prompts),
        )


@door
@dataclass(frozen=True, eq=False, repr=False)
class PromptSet(Sequence[Prompt]):
    """The prompts of one task and seed, in the order in which their queries were drawn."""

    prompts: tuple[Prompt, ...]
    task: str = ""
    seed: int | None = None
    shots: int | str | None = None
    """Demonstrations per class; as text if classes differ, such as "4/1"."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """How the prompts were made: data, policies, options; plain values, for provenance."""
    auxiliary: Mapping[str, PromptSet] = field(default_factory=dict)
    """Auxiliary sets that an experiment needs in addition to this one, such as training prompts."""

    remedy: ClassVar = ("These prompts were made", "build them again with task.prompts(model.tokenizer, ...)")
    """What it is, and what to do if another tokenizer made it."""

    def __post_init__(self) -> None:
        _check_same_labels(self.prompts)

    @classmethod
    @door
    def of(cls, prompts: Sequence[Prompt], seed: int | None = None) -> PromptSet:
        """A set of prompts made one by one.

        Raises:
            InputError: They differ in their classes' scoring tokens.
        """
        tasks = dict.fromkeys(prompt.task for prompt in prompts if prompt.task)
        counts = {tuple(prompt.anchor_classes.count(c) for c in range(len(prompt.label_ids))) for prompt in prompts}
        return cls(tuple(prompts), "+".join(tasks), seed, _shots_of(counts))

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...
    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        if isinstance(index, slice):
            return replace(self, prompts=self.prompts[index])
        check_count("The index of a prompt", index, -len(self))
        return self.prompts[index]

    def select(self, indices: Sequence[int]) -> PromptSet:
        """The prompts at these indices, in this order."""
        return replace(self, prompts=tuple(self.prompts[i] for i in indices))

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Scoring token of each class."""
        return self.prompts[0].label_ids if self.prompts else ()

    @property
    def label_tokens(self) -> tuple[tuple[int, ...], ...]:
        """All tokens of each label word, if these together score a class; else empty."""
        return self.prompts[0].label_tokens if self.prompts else ()

    @property
    def label_words(self) -> tuple[str, ...]:
        """Label word of each class, as written in the prompts."""
        return self.prompts[0].label_words if self.prompts else ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.prompts[0].class_names if self.prompts else ()

    @property
    def gold(self) -> Int[Tensor, "prompt"]:
        """True class of each prompt, -1 where unknown."""
        return torch.tensor([-1 if prompt.gold is None else prompt.gold for prompt in self.prompts], dtype=torch.long)

    @property
    def tokenizer_digests(self) -> frozenset[str]:
        """Digests of the tokenizers that made the prompts and auxiliary prompts; "" stands for prompts made by hand."""
        auxiliary = (prompts.tokenizer_digests for prompts in self.auxiliary.values())
        return frozenset({prompt.tokenizer_digest for prompt in self.prompts}.union(*auxiliary))

    def batch(self, device: torch.device | str | None = None) -> PromptBatch:
        """All prompts in one batch, in order; InputError if numbers of demonstrations differ."""
        return PromptBatch.of(self.prompts, device)

    @door
    def chunks(self, size: int) -> Iterator[tuple[int, ...]]:
        """Indices of at most ``size`` prompts at a time that fit one batch with little padding.

        They have the same number of demonstrations; the longest come first, so that memory runs out early if at all.
        """
        check_count("batch_size", size)
        order = sorted(range(len(self)), key=lambda i: (-len(self[i].anchors), -len(self[i]), i))
        for _, group in groupby(order, key=lambda i: len(self[i].anchors)):
            members = tuple(group)
            for start in range(0, len(members), size):
                yield members[start : start + size]

    def batches(
        self, size: int, device: torch.device | str | None = None
    ) -> Iterator[tuple[tuple[int, ...], PromptBatch]]:
        """Every prompt once, as (indices into this set, batch): see :meth:`chunks`."""
        for indices in self.chunks(size):
            yield indices, self.select(indices).batch(device)

    def digest(self) -> str:
        """SHA-256 of tokens, positions, scoring tokens, true classes and auxiliary prompts; equal for equal prompts."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = sha256()
        for prompt in self.prompts:
            demonstrations = [(d.label_class, d.span, d.text, d.label, d.anchor) for d in prompt.demonstrations]
            facts: tuple[Any, ...] = (prompt.tokens, demonstrations, prompt.query_text, prompt.label_ids, prompt.gold)
            facts += (prompt.label_tokens,) if prompt.label_tokens else ()
            digest.update(json.dumps(facts).encode() + b"\n")
        for name, prompts in sorted(self.auxiliary.items()):
            digest.update(f"{name} {prompts.digest()}\n".encode())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        """Provenance of the prompts, as plain values."""
        return {
            "task": self.task, "seed": self.seed, "shots": self.shots, "prompts": len(self),
            "class_names": list(self.class_names), "label_words": list(self.label_words), "digest": self.digest(),
            "gold": [int((self.gold == c).sum()) for c in range(len(self.class_names))],
            **self.origin, **{name: prompts.provenance() for name, prompts in self.auxiliary.items()},
        }  # fmt: skip

    def __repr__(self) -> str:
        lengths = [len(prompt) for prompt in self.prompts] or [0]
        return (
            f"PromptSet({self.task or 'stored'}: {len(self)} prompts of {min(lengths)} to {max(lengths)} "
            f"tokens, seed={self.seed}, shots={self.shots}, classes={list(self.class_names)})"
        )

    def _repr_html_(self) -> str:
        first = self.prompts[0]._repr_html_() if self.prompts else ""
        return f"<p>{escape(repr(self))}</p>{first}"


def _shots_of(counts: set[tuple[int, ...]]) -> int | str | None:
    """Demonstrations per class of prompts with these numbers; "mixed" if the prompts differ."""
    if len(counts) > 1:
        return "mixed"
    numbers = next(iter(counts), ())
    return "/".join(map(str, numbers)) if len(set(numbers)) > 1 else next(iter(numbers), None)


def _check_same_labels(prompts: Sequence[Prompt]) -> None:
    if len({(prompt.label_ids, prompt.label_tokens, prompt.class_names) for prompt in prompts}) > 1:
        raise InputError(
            "These prompts differ in their classes or in the tokens that score them; keep the prompts of "
            "different tasks, label words or tokenizers in sets of their own."
        )
