"""`run` is the loop that applies probes and patches to prompts or text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.corpora import TokenBatch, TokenCorpus
from mechicl.display import card, shown
from mechicl.doors import door
from mechicl.errors import InputError, NumericalError, check_count, out_of_memory
from mechicl.hooks.doors import check_parts, material_of
from mechicl.hooks.parts import Pass, Patch, Probe
from mechicl.hooks.sequence import check_sequence, sequence_log_probs
from mechicl.limits import prompts_that_fit
from mechicl.metrics.objective import Objective
from mechicl.models import (
    Adapter,
    Model,
    check_same_tokenizer,
    equal_rows,
    forward_recomputed,
    frozen,
    hooked,
    prompts_at_once,
    runs_by_block,
)
from mechicl.progress import progress as progress_bar
from mechicl.prompts import Prompt, PromptBatch, PromptSet
from mechicl.readings import Reading, first_non_finite, joined, without_padding

if TYPE_CHECKING:
    import pandas as pd


_processes = 1


def share_device(processes: int) -> None:
    """Size this process's batches for its part of the device's memory, which so many processes share."""
    global _processes
    _processes = processes


@dataclass(frozen=True, repr=False)
class Run:
    """The result of `run`, in the order of the prompts. `run[probe]` is that probe's reading, `run.frame()` the table.

    `label_logits` [prompt class] are the logits at q of each class's scoring token, in class order; for prompts with
    `score="sequence"`, the log-probabilities of whole label words, in nats. Running text has no classes.
    """

    label_logits: Float[Tensor, "prompt class"]
    readings: Mapping[Probe, Reading]
    classes: tuple[str, ...] = ()
    """Names of the classes."""

    def __getitem__(self, probe: Probe) -> Reading:
        if probe not in self.readings:
            known = ", ".join(map(repr, self.readings)) or "none"
            raise InputError(f"This run has no reading of {probe!r}; the probes that it was given: {known}.")
        return self.readings[probe]

    def frame(self) -> pd.DataFrame:
        """The table of the only probe's reading; without a probe, of the predictions.

        Raises:
            InputError: there are several probes.
        """
        if len(self.readings) > 1:
            raise InputError("This run has several probes, each with its own table; use run[probe].frame().")
        return next(iter([*self.readings.values(), self.predictions])).frame()

    @property
    def predictions(self) -> Reading:
        """Logit and probability of every class's label word at q."""
        quantities = {"label_logit": self.label_logits, "label_prob": self.label_probs}
        units = {"label_logit": "logit", "label_prob": "share among the label words"}
        return Reading(("prompt", "class"), quantities, units, coordinates={"class": self.classes})

    @property
    def label_probs(self) -> Float[Tensor, "prompt class"]:
        """Softmax over the label words only, the paper's class scores (section 2.1)."""
        return self.label_logits.softmax(-1)

    @property
    def predicted(self) -> Int[Tensor, "prompt"]:
        """Index of the most probable label word.

        Raises:
            InputError: running text has no label words.
        """
        if not self.label_logits.shape[1]:
            raise InputError("Running text has no label words, so no class is predicted.")
        return self.label_logits.argmax(-1)

    def __repr__(self) -> str:
        readings = "".join(f", {probe!r}: {reading!r}" for probe, reading in self.readings.items())
        return f"Run(label_logits {list(self.label_logits.shape)}{readings})"

    def _repr_html_(self) -> str:
        n, n_classes = self.label_logits.shape
        answers = self.predicted.bincount(minlength=n_classes).tolist() if n_classes else []
        said = "".join(f"; class {c} predicted {count} times" for c, count in enumerate(answers) if count)
        rows = [
            (shown(probe), name, reading.units[name], ", ".join(reading.axes), shown(values))
            for probe, reading in self.readings.items()
            for name, values in reading.quantities.items()
        ]
        sentence = f"of {n} {'prompts' if n_classes else 'sequences'}{said}."
        return card("Run", sentence, rows, ("probe", "quantity", "unit", "axes", "shape, smallest to largest value"))


@partial(door, kinds=False)
def run(
    model: Model,
    prompts: PromptSet | Prompt | Sequence[Prompt] | TokenCorpus,
    probes: Sequence[Probe] = (),
    patches: Sequence[Patch] = (),
    *,
    batch_size: int = 16,
    progress: str | None = "prompts",
) -> Run:
    """Run prompts, or running text, through the model once, with all patches applied and all probes reading.

    Patches act in the order given, and probes see patched values. If a patch reorders blocks, layer i of a reading is
    block i, wherever it runs. Prompts are batched by length with right padding; when memory runs out, the batch is
    halved and the run continues. Gradients are computed only if a probe has an objective, and only for activations.
    Their memory is bounded: batches become smaller, and if a single prompt's activations do not fit, blocks are
    recomputed in the backward pass (your own hooks then fire twice). Afterwards hooks, gradient flags and mode (train
    or eval) of the model are unchanged.

    Raises:
        InputError: arguments are of another kind, there is nothing to run, the input was made with another tokenizer,
            or not even a batch of one prompt fits into memory.
        HookError: a hook of a patch or probe never fired.
        NumericalError: a reading is NaN or infinite; the message names the probe and the layer.
    """
    net, prompts = hooked(model), material_of(prompts)
    check_count("batch_size", batch_size)
    check_parts(probes, patches)
    if isinstance(prompts, TokenCorpus):

        def text(part: TokenCorpus) -> tuple[Tensor, dict[Probe, Reading]]:
            return text_pass(net, part.batch(net.device), probes, patches)

        return sweep(net, prompts, probes, text, batch_size=batch_size, progress=progress)
    at_once = batch_size
    if any(probe.objective is not None for probe in probes) and len(prompts):
        check_sequence(prompts.label_tokens, "A probe with an objective")
        at_once = prompts_at_once(net, max(map(len, prompts))) // _processes

    def whole(part: PromptSet) -> tuple[Tensor, dict[Probe, Reading]]:
        batch = part.batch(net.device)
        if part.label_tokens:
            _, readings = target_pass(net, batch, probes, patches, lambda: net.forward(batch.tokens))
            return sequence_log_probs(net, batch, patches), readings
        if not at_once and runs_by_block(net):
            return target_pass(net, batch, probes, patches, lambda: forward_recomputed(net, batch.tokens), True)
        return target_pass(net, batch, probes, patches, lambda: net.forward(batch.tokens))

    return sweep(net, prompts, probes, whole, batch_size=min(batch_size, max(1, at_once)), progress=progress)


Inputs = TypeVar("Inputs", PromptSet, TokenCorpus)


def sweep(
    net: Adapter,
    prompts: Inputs,
    probes: Sequence[Probe],
    one_pass: Callable[[Inputs], tuple[Tensor, dict[Probe, Reading]]],
    *,
    batch_size: int,
    progress: str | None,
) -> Run:
    """Run prompts batch by batch through `one_pass`, which returns the label logits and the probes' readings."""
    check_count("batch_size", batch_size)
    if not len(prompts):
        raise InputError("There are no prompts to run; give at least one.")
    check_same_tokenizer(net, prompts)
    longest = int(prompts.lengths.max()) if isinstance(prompts, TokenCorpus) else max(one.n_read for one in prompts)
    fit = prompts_that_fit(net.sizes, longest, net.dtype.itemsize, net.device)
    batch_size = batch_size if fit is None else min(batch_size, max(1, fit // _processes))
    lengths = prompts.lengths if isinstance(prompts, TokenCorpus) else torch.tensor(list(map(len, prompts)))
    collected = _Collected(lengths, probes)
    # a caller's inference mode would leave no gradients to ask for
    with torch.inference_mode(False), frozen(net), progress_bar(progress or "", len(prompts)) as advance:
        todo = deque(prompts.chunks(batch_size))
        while todo:
            indices = todo.popleft()
            try:
                collected.add(indices, *one_pass(prompts.select(indices)))
            except NumericalError as error:
                which = f"{', '.join(map(str, sorted(indices)[:8]))}{', ...' if len(indices) > 8 else ''}"
                raise NumericalError(f"{error} It was in the batch of {which} (counted from 0).") from error
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                todo.extendleft(reversed(_halves(indices, error)))
            else:
                advance(len(indices))
                continue
            if net.device.type == "cuda":  # only now, because the error kept the failed pass's activations alive
                torch.cuda.empty_cache()
    return collected.finish(prompts.class_names if isinstance(prompts, PromptSet) else ())


def target_pass(
    net: Adapter,
    batch: PromptBatch,
    probes: Sequence[Probe],
    patches: Sequence[Patch],
    forward: Callable[[], Float[Tensor, "batch pos d_model"]],
    recomputed: bool = False,
) -> tuple[Tensor, dict[Probe, Reading]]:
    """One batch: a forward pass, and another with a backward pass for each further objective among the probes.

    `forward` returns the last residual, in which q is at `batch.target`. If it recomputes blocks in the backward pass,
    probes with an objective read then, when gradients arrive, and the others in the forward pass.
    """
    scored_by = max(batch.prompts[0].label_ids, default=-1)  # from the prompts, as the batch's ids may be on a GPU
    if scored_by >= net.sizes.d_vocab:
        raise InputError(
            f"A class is scored by token {scored_by}, outside the vocabulary of {net.name} "
            f"({net.sizes.d_vocab}); build the prompts with the model's own tokenizer."
        )
    label_logits: Tensor | None = None
    readings: dict[Probe, Reading] = {}
    for objective, group in _by_objective(probes):
        watches = {probe: probe.watch(net, batch) for probe in group}
        installed = Pass(net, patches, batch)
        late = {probe: recomputed and probe.objective is not None for probe in group}
        early = [hook for probe in group if not late[probe] for hook in installed.hooks(probe, watches[probe].hooks)]
        then = [hook for probe in group if late[probe] for hook in installed.hooks(probe, watches[probe].hooks)]
        leaf = [("hook_embed", _as_leaf)] if objective is not None else []
        with torch.set_grad_enabled(objective is not None), installed.reordered(), net.hooks([*installed.edits, *leaf]):
            with net.hooks(early):
                with equal_rows(batch.tokens):
                    last = forward()
                final = last[torch.arange(len(batch.target), device=batch.target.device), batch.target]
                logits = net.read(final[:, None])[:, 0].float()
                label_logits = logits[:, batch.label_ids]
            if objective is not None:
                with net.hooks(then):
                    torch.autograd.backward(objective(label_logits, batch.gold).sum())
        installed.check()
        for watch in watches.values():
            if watch.read_logits is not None:
                watch.read_logits(logits.detach())
        readings |= {probe: probe.reading(watch, batch) for probe, watch in watches.items()}
    assert label_logits is not None
    return label_logits.detach(), readings


def text_pass(
    net: Adapter, batch: TokenBatch, probes: Sequence[Probe], patches: Sequence[Patch]
) -> tuple[Tensor, dict[Probe, Reading]]:
    """One batch of running text: a forward pass without labels or logits; probes choose their positions."""
    watches = {probe: probe.watch(net, batch) for probe in probes}
    for probe, watch in watches.items():
        if probe.objective is not None or watch.read_logits is not None:
            raise InputError(f"{type(probe).__name__} reads what happens at a prompt's target; run it on prompts.")
    installed = Pass(net, patches, batch)
    readings = [hook for probe, watch in watches.items() for hook in installed.hooks(probe, watch.hooks)]
    with torch.no_grad(), installed.reordered(), net.hooks([*installed.edits, *readings]):
        final = net.forward(batch.tokens)
    installed.check()
    # Masks and softmaxes of TransformerLens turn NaN into 0 on the way to some probes; the residual keeps it.
    residual = {"last residual": final * batch.real[..., None]}
    _refuse_non_finite("The {} is", Reading(("sequence", "position", "dimension"), residual, {}))
    return final.new_zeros(len(final), 0), {probe: probe.reading(watch, batch) for probe, watch in watches.items()}


def _by_objective(probes: Sequence[Probe]) -> Iterable[tuple[Objective | None, list[Probe]]]:
    """Probes that share an objective share a pass; forward-only probes ride along with the first."""
    objectives = list(dict.fromkeys(probe.objective for probe in probes if probe.objective is not None))
    first = objectives[0] if objectives else None
    groups: dict[Objective | None, list[Probe]] = {objective: [] for objective in (first, *objectives)}
    for probe in probes:
        groups[probe.objective or first].append(probe)
    return groups.items()


def _as_leaf(embedding: Tensor, hook: Any) -> Tensor:
    """Parameters are frozen, so gradients end at the embedding, which must be a leaf that requires them."""
    return embedding.detach().requires_grad_()


def _halves(indices: tuple[int, ...], error: Exception) -> list[tuple[int, ...]]:
    if len(indices) == 1:
        raise InputError(
            "Memory ran out on a batch of a single prompt; use shorter prompts, a smaller model, or a lower-precision "
            "dtype."
        ) from error
    middle = len(indices) // 2
    return [indices[:middle], indices[middle:]]


@dataclass
class _Collected:
    """Collects readings in the order of the prompts."""

    lengths: Int[Tensor, "prompt"]
    probes: Sequence[Probe]
    label_logits: list[Tensor] = field(default_factory=list)
    readings: dict[Probe, list[Reading]] = field(default_factory=dict)
    indices: list[int] = field(default_factory=list)

    def add(self, indices: tuple[int, ...], label_logits: Tensor, readings: Mapping[Probe, Reading]) -> None:
        label_logits = label_logits.cpu()
        _refuse_non_finite("The {} are", Reading(("prompt", "class"), {"label logits": label_logits}, {}))
        for probe, reading in readings.items():
            _refuse_non_finite(f"The {{}} of {type(probe).__name__} is", reading)
            self.readings.setdefault(probe, []).append(without_padding(reading, self.lengths[list(indices)]))
        self.label_logits.append(label_logits)
        self.indices.extend(indices)

    def finish(self, classes: tuple[str, ...]) -> Run:
        order = torch.tensor(self.indices).argsort()
        readings = {probe: joined(parts, order) for probe, parts in self.readings.items()}
        return Run(torch.cat(self.label_logits)[order], readings, classes)


def _refuse_non_finite(said: str, reading: Reading) -> None:
    """Raise NumericalError for the first NaN or infinite value; `said` names the quantity and its place."""
    if bad := first_non_finite(reading):
        name, value, place = bad
        raise NumericalError(
            f"{said.format(name)} {value} at {place or 'the first prompt of the batch'}: the model's activations "
            f"overflow there or its weights are not finite; try dtype='float32' or 'bfloat16'."
        )
