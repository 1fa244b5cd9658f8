"""A context that was read once: its keys and values in every layer, and queries on top of them.

By causality the demonstrations never see the query, so their keys and values serve every query. Keeping only a part of
them gives the paper's anchor-only context (section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.doors import door
from mechicl.engines.context_files import read_context_files, write_context
from mechicl.errors import InputError
from mechicl.hooks import Pass, Patch, Probe, Run, sweep, target_pass
from mechicl.hooks.doors import check_parts, prompts_of
from mechicl.hooks.sequence import check_sequence
from mechicl.models import Adapter, Blockwise, KeyValues, blockwise, check_same_tokenizer, frozen
from mechicl.models.provenance import identity, is_same_model
from mechicl.prompts import Prompt, PromptBatch, PromptSet
from mechicl.readings import Reading


@dataclass(frozen=True, eq=False)
class Reader:
    """The model that read a context, whose keys and values are meaningless to any other, even of the same size.

    The model itself while it is in memory, or the digest of its weights once the context was saved.
    """

    name: str
    raw: Any = None
    """The model; None if the context comes from a file."""
    saved: Mapping[str, str] = field(default_factory=dict)
    """Its `identity`."""

    @property
    def identity(self) -> Mapping[str, str]:
        """The digest of its weights, computed only on request because it reads them all."""
        return self.saved or identity(self.raw)

    def check(self, net: Adapter) -> None:
        """Raise InputError for a model with other weights, or with the same in another processing or dtype."""
        if net.raw is not self.raw and not is_same_model(net.raw, self.identity):
            raise InputError(
                f"This context was read by another model than {net.name}: by {self.name} with other weights, "
                "processing or dtype. Load that model in the same way, or read the context again."
            )


@dataclass(frozen=True, eq=False)
class Context:
    """Keys and values of tokens that a model has read, to which its next tokens can attend."""

    layers: tuple[KeyValues, ...]
    """Those of one prompt, per layer; keys have the positions at which they were read."""
    places: tuple[int, ...]
    """Positions of the kept tokens, in the prompt that they were read in."""
    next_position: int
    """Position id of the first token of a query on top."""
    anchors: tuple[int, ...]
    """Positions of the label words, kept or not, in prompt order."""
    anchor_classes: tuple[int, ...]
    label_ids: tuple[int, ...]
    label_words: tuple[str, ...]
    reader: Reader
    """The model of these keys and values."""
    tokenizer_digest: str = ""
    """Digest of the tokenizer of the prompt that was read; empty if unknown."""

    remedy: ClassVar[tuple[str, str]] = (
        "This context was read from a prompt that was made",
        "build the prompt with model.tokenizer and read it again",
    )
    """What it is, and what to do if another tokenizer made it."""

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return (
            f"Context({len(self)} tokens in {len(self.layers)} layers, {self.n_bytes / 2**20:.2f} MiB; "
            f"the next token stands at {self.next_position})"
        )

    @property
    def n_bytes(self) -> int:
        """Size of all keys and values."""
        return sum(part.nbytes for layer in self.layers for part in (layer.keys, layer.values))

    def keep(self, positions: Iterable[int], *, next_position: int | None = None) -> Context:
        """Only the tokens at these positions of the prompt; the next position is unchanged, or as given.

        Raises:
            InputError: there are no positions, or one of them is not in this context.
        """
        chosen = sorted(set(positions))
        missing = sorted(set(chosen) - set(self.places))
        if missing or not chosen:
            raise InputError(f"Positions {missing or chosen} cannot be kept; this context holds {self.places}.")
        device = self.layers[0].keys.device if self.layers else None
        index = torch.tensor([self.places.index(position) for position in chosen], device=device)
        return replace(
            self,
            layers=tuple(layer.select(index) for layer in self.layers),
            places=tuple(chosen),
            next_position=self.next_position if next_position is None else next_position,
        )

    def ask(
        self, model: Any, prompts: PromptSet | Sequence[Prompt], probes: Sequence[Probe] = (),
        patches: Sequence[Patch] = (), *, batch_size: int = 16, progress: str | None = "prompts",
    ) -> Run:  # fmt: skip
        """Run the queries of prompts on top of this context; their own demonstrations are ignored.

        Probes and patches must act only at the target position.

        Raises:
            InputError: the prompts have other label words or another tokenizer, the model is not the one that read this
                context, or a query exceeds the model's positions.
        """
        net = blockwise(model, "Context.ask")
        prompts = prompts_of(prompts)
        check_parts(probes, patches)
        self._check(net, prompts, probes, patches)

        def one(part: PromptSet) -> tuple[Tensor, dict[Probe, Reading]]:
            batch = self.queries(part, net.device)

            def forward() -> Tensor:
                return forward_on(net, batch.tokens, self.next_position, self.layers)[0]

            return target_pass(net, batch, probes, patches, forward)

        return sweep(net, prompts, probes, one, batch_size=batch_size, progress=progress)

    def _check(self, net: Blockwise, prompts: PromptSet, probes: Sequence[Probe], patches: Sequence[Patch]) -> None:
        if len(prompts) and prompts.label_ids != self.label_ids:
            raise InputError(
                f"This context was read with the label words {self.label_words}, the prompts have "
                f"{prompts.label_words}; read one for their task."
            )
        self.reader.check(net)
        check_same_tokenizer(net, self)
        heads = (net.sizes.n_layers, net.sizes.n_key_value_heads, net.sizes.d_head)
        if (len(self.layers), *self.layers[0].keys.shape[2:]) != heads:
            raise InputError(f"The layers or heads of this context are not those of {net.name}; read it again.")
        parts: list[Probe | Patch] = [*probes, *patches]
        for part in parts:
            if part.scope != "target" or (isinstance(part, Probe) and part.objective is not None):
                raise InputError(
                    f"{type(part).__name__} needs the whole prompt, and a context holds keys and values alone; use run."
                )

    @property
    def tokenizer_digests(self) -> frozenset[str]:
        """The digest of the tokenizer of the prompt that was read."""
        return frozenset({self.tokenizer_digest})

    def queries(self, prompts: PromptSet, device: torch.device) -> PromptBatch:
        """The prompts' queries as a batch: q counted from their first token, label words from the first key."""
        check_sequence(prompts.label_tokens, "A context")
        tokens = [prompt.tokens[prompt.query_start :] for prompt in prompts]
        widest = max(map(len, tokens))
        labels = zip(self.anchors, self.anchor_classes, strict=True)
        kept = [(self.places.index(p), c) for p, c in labels if p in self.places]

        def tensor(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        lengths = tensor([len(row) for row in tokens])
        return PromptBatch(
            tokens=tensor([[*row, *[0] * (widest - len(row))] for row in tokens]), lengths=lengths, target=lengths - 1,
            anchors=tensor([place for place, _ in kept]).expand(len(tokens), -1),
            anchor_classes=tensor([c for _, c in kept]).expand(len(tokens), -1), label_ids=tensor(self.label_ids),
            gold=prompts.gold.to(device), prompts=tuple(prompts),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Context:
        """The same context on another device."""
        moved = (KeyValues(x.keys.to(device), x.values.to(device), x.positions.to(device)) for x in self.layers)
        return replace(self, layers=tuple(moved))

    def save(self, folder: str | Path) -> Path:
        """Write `context.safetensors` and `context.json`; return the path of the former."""
        reader = {"model": self.reader.name, **self.reader.identity}
        return write_context(folder, self.layers, reader | {name: getattr(self, name) for name in _FACTS})

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Context:
        """A context saved in a folder; InputError if there is none."""
        hints = get_type_hints(cls)
        kinds = {"model": str, **dict.fromkeys(_IDENTITY, str), **{name: hints[name] for name in _FACTS}}
        layers, facts = read_context_files(folder, device, kinds)
        reader = Reader(facts["model"], saved={name: facts[name] for name in _IDENTITY})
        return cls(layers, **{name: facts[name] for name in _FACTS}, reader=reader)


_IDENTITY = ("weight_digest", "origin_digest")
_FACTS = ("places", "next_position", "anchors", "anchor_classes", "label_ids", "label_words", "tokenizer_digest")


@door
def read_context(model: Any, prompt: Prompt, patches: Sequence[Patch] = ()) -> Context:
    """Run a prompt's demonstrations once, with patches that act inside them, and cache their keys and values.

    Raises:
        InputError: the prompt has no demonstrations or is of another tokenizer, a patch acts elsewhere, or the model
            cannot run block by block.
    """
    net, n = blockwise(model, "read_context"), prompt.query_start
    check_same_tokenizer(net, PromptSet((prompt,)))
    if not n:
        raise InputError("This prompt has no demonstrations, so there is no context to read; use shots=1 or more.")
    for patch in patches:
        if patch.scope != "demonstrations":
            raise InputError(f"{type(patch).__name__} does not act inside the demonstrations alone; use run.")
    whole = PromptBatch.of([prompt], net.device)
    batch = replace(whole, tokens=whole.tokens[:, :n])
    installed = Pass(net, patches, batch)
    with torch.no_grad(), frozen(net), net.hooks(installed.edits):
        _, layers = forward_on(net, batch.tokens, 0, ())
    installed.check()
    return context_of(net, prompt, layers)


def context_of(net: Blockwise, prompt: Prompt, layers: tuple[KeyValues, ...]) -> Context:
    """A context of all demonstrations of a prompt, whose keys and values these are."""
    n = prompt.query_start
    return Context(
        layers, tuple(range(n)), n, prompt.anchors, prompt.anchor_classes, prompt.label_ids, prompt.label_words,
        Reader(net.name, net.raw), prompt.tokenizer_digest,
    )  # fmt: skip


def forward_on(
    net: Blockwise, tokens: Int[Tensor, "batch pos"], start: int, past: Sequence[KeyValues]
) -> tuple[Float[Tensor, "batch pos d_model"], tuple[KeyValues, ...]]:
    """All blocks on top of cached keys and values, from position `start`: last residual, new keys and values."""
    positions = torch.arange(start, start + tokens.shape[1], device=net.device)
    return blocks_on(net, range(net.sizes.n_layers), net.embed(tokens, positions), positions, past)


def blocks_on(
    net: Blockwise,
    layers: Iterable[int],
    resid: Float[Tensor, "batch pos d_model"],
    positions: Int[Tensor, " pos"],
    past: Sequence[KeyValues],
) -> tuple[Float[Tensor, "batch pos d_model"], tuple[KeyValues, ...]]:
    """Some blocks on top of cached keys and values, if any: residual, new keys and values."""
    new = []
    for layer in layers:
        resid, kept = net.block(layer, resid, positions, past[layer] if past else None)
        new.append(kept)
    return resid, tuple(new)
