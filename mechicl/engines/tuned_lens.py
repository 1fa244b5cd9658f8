"""Fitting a tuned lens: all layers' translators from one pass per batch (Belrose et al. 2023, section 3)."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from mechicl.corpora import TokenBatch, TokenCorpus
from mechicl.doors import door
from mechicl.errors import InputError, NumericalError, check_seed
from mechicl.files.writing import make_folder, write_atomically
from mechicl.metrics import entropy_of_log_probs
from mechicl.models import Adapter, check_same_tokenizer, frozen, hooked, provenance
from mechicl.models.provenance import identity
from mechicl.probes.tuned_lens import TunedLens
from mechicl.progress import progress

_LOGITS_AT_ONCE = 2**23
_SHARE_FOR_WRITING = 0.05
"""Largest share of the time spent on writing checkpoints."""


@door
def fit_tuned_lens(
    model: Any,
    corpus: TokenCorpus,
    *,
    steps: int = 200,
    lr: float = 2e-3,
    batch_size: int = 2,
    positions: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
) -> TunedLens:
    """Learn a translator for each residual before a layer by Adam on KL(final || lens), from the identity.

    Each step takes `batch_size` sequences: one pass gives all residuals, each of which is read at `positions` random
    positions, never the first. The learning rate falls linearly to 0. Logits are computed, and discarded, a few hundred
    positions at a time. `tuned_lens_seconds` estimates the time.

    Args:
        model: a HookedTransformer; its weights are not changed.
        corpus: running text that is held out from the evaluation text.
        steps: number of batches; the text is repeated as often as needed, in a new order each time.
        lr: learning rate of the first step.
        batch_size: sequences per step.
        positions: positions per step, or all of its sequences' positions if there are fewer.
        seed: seed of the orders, and of the positions.
        out: folder for the lens and its checkpoints. An interrupted fit resumes, and a lens that was fitted to the same
            model, text and settings is loaded.

    Raises:
        InputError: there is no text to learn from, or settings are invalid.
        NumericalError: a KL becomes NaN or infinite; the message names the layer.
    """
    if not len(corpus) or int(corpus.lengths.min()) < 2:
        raise InputError("A tuned lens learns from running text; give sequences of at least two tokens.")
    if min(steps, batch_size, positions) < 1 or lr <= 0:
        raise InputError(
            f"A tuned lens needs steps, batch_size and positions >= 1 and lr > 0; got {steps}, {batch_size}, "
            f"{positions}, {lr}."
        )
    check_seed(seed)
    check_same_tokenizer(hooked(model), corpus)
    settings = {"steps": steps, "lr": lr, "batch_size": batch_size, "positions": positions, "seed": seed}
    about = _about(model, corpus) | settings
    if out is not None and (done := _finished(out, about)) is not None:
        return done
    net = hooked(model)
    training = _Training(net.sizes.n_layers, net.sizes.d_model, steps, lr, net.device)
    checkpoint = None if out is None else _Checkpoint(out, about)
    first = 0 if checkpoint is None else checkpoint.restore(training)
    with frozen(net), progress("tuned lens", steps) as advance:
        advance(first)
        for step in range(first, steps):
            rows = _rows(step, len(corpus), batch_size, seed)
            batch = corpus.select(rows).batch(net.device)
            training.step(net, batch, step, _positions(batch, positions, [seed, step]))
            advance(1)
            if checkpoint is not None:
                checkpoint.keep(training, step + 1)
    lens = TunedLens(training.A.detach().cpu(), training.b.detach().cpu(), about, training.kl)
    if checkpoint is not None:
        lens.save(checkpoint.folder)
        checkpoint.path.unlink(missing_ok=True)
    return lens


def tuned_lens_seconds(
    corpus: TokenCorpus, model: Any, *, steps: int = 200, batch_size: int = 2, positions: int = 64
) -> float:
    """Seconds that `fit_tuned_lens` takes with these settings, to an order of magnitude; a smaller step is timed."""
    net, few = hooked(model), min(16, positions)
    rows = _rows(0, len(corpus), batch_size, 0)
    batch = corpus.select(rows).batch(net.device)
    training = _Training(net.sizes.n_layers, net.sizes.d_model, 1, 1e-9, net.device)
    chosen = _positions(batch, few, [0, 0])
    with frozen(net):
        start = time.perf_counter()
        points = _residuals(net, batch, chosen)
        read = time.perf_counter()
        training.gradients(net, points)
        learned = time.perf_counter() - read
    n = min(positions, int((batch.lengths - 1).sum()))
    return steps * (read - start + learned * n / points.shape[1])


def _about(model: Any, corpus: TokenCorpus) -> dict[str, Any]:
    facts = provenance(model)
    return {
        "model": facts["name"], "processing": facts["processing"], "dtype": facts["dtype"],
        **identity(hooked(model).raw), "text": corpus.provenance(), "sequences": corpus.sequence_digests(),
    }  # fmt: skip


def _finished(folder: str | Path, about: dict[str, Any]) -> TunedLens | None:
    """The lens in the folder, if it was fitted with the same inputs."""
    if not TunedLens.is_in(folder):
        return None
    lens = TunedLens.load(folder)
    return lens if json.dumps(lens.about, default=str) == json.dumps(about, default=str) else None


def _rows(step: int, n: int, batch_size: int, seed: int) -> list[int]:
    """The sequences of a step: each epoch goes through all of them once, in its own order."""
    epoch, place = divmod(step, -(-n // batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [int(row) for row in order[place * batch_size : (place + 1) * batch_size]]


class _Training:
    """Translators in training, with Adam's moments and the KL of every step so far."""

    def __init__(self, n_layers: int, d_model: int, steps: int, lr: float, device: torch.device) -> None:
        self.A = torch.zeros(n_layers, d_model, d_model, device=device, requires_grad=True)
        self.b = torch.zeros(n_layers, d_model, device=device, requires_grad=True)
        self.kl = torch.zeros(steps, n_layers)
        self.lr = lr
        self.optimiser = torch.optim.Adam([self.A, self.b], lr=lr)

    def step(self, net: Adapter, batch: TokenBatch, step: int, chosen: Bool[Tensor, "batch pos"]) -> None:
        self.optimiser.zero_grad()
        self.kl[step] = self.gradients(net, _residuals(net, batch, chosen))
        if not self.kl[step].isfinite().all():
            layer = int((~self.kl[step].isfinite()).nonzero()[0])
            raise NumericalError(
                f"Tuned lens: the KL of the residual before layer {layer} is {self.kl[step, layer].item()} at step "
                f"{step}; try a lower lr, or dtype='float32'."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * (1 - step / len(self.kl))
        self.optimiser.step()

    def gradients(self, net: Adapter, points: Float[Tensor, "point position d_model"]) -> Float[Tensor, "layer"]:
        """Accumulate the gradients of every layer's mean KL over these positions; return these means."""
        n = points.shape[1]
        total = torch.zeros(len(self.A), device=points.device)
        lens = TunedLens(self.A, self.b)
        for part in torch.split(torch.arange(n, device=points.device), max(1, _LOGITS_AT_ONCE // net.sizes.d_vocab)):
            with torch.no_grad():
                log_final = net.lens(points[-1, part]).log_softmax(-1)
            final, entropy = log_final.exp(), entropy_of_log_probs(log_final).sum()
            for layer in range(len(self.A)):
                with torch.enable_grad():
                    cross = cross_entropy(net.lens(lens(layer, points[layer, part])), final, reduction="sum")
                    ((cross - entropy) / n).backward()  # type: ignore[no-untyped-call]
                total[layer] += (cross.detach() - entropy) / n
        return total.cpu()

    def tensors(self) -> dict[str, Tensor]:
        """The state on which later steps depend."""
        moments = {
            f"{name}.{moment}": self.optimiser.state[parameter][moment]
            for name, parameter in (("A", self.A), ("b", self.b))
            for moment in ("exp_avg", "exp_avg_sq", "step")
        }
        return {"A": self.A.detach(), "b": self.b.detach(), "kl": self.kl, **moments}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in (("A", self.A), ("b", self.b)):
                parameter.copy_(tensors[name])
                self.optimiser.state[parameter] = {
                    moment: tensors[f"{name}.{moment}"].to("cpu" if moment == "step" else parameter.device)
                    for moment in ("exp_avg", "exp_avg_sq", "step")
                }
        self.kl = tensors["kl"]


def _positions(batch: TokenBatch, most: int, seed: list[int]) -> Bool[Tensor, "batch pos"]:
    """At most `most` random real positions, never a sequence's first."""
    real = batch.real.cpu() & (torch.arange(batch.tokens.shape[1]) > 0)
    places = real.flatten().nonzero()[:, 0].numpy()
    if len(places) > most:
        places = np.random.default_rng(seed).permutation(places)[:most]
    chosen = torch.zeros(real.numel(), dtype=torch.bool)
    chosen[torch.from_numpy(places)] = True
    return chosen.view(real.shape).to(batch.device)


@torch.no_grad()
def _residuals(
    net: Adapter, batch: TokenBatch, chosen: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "point position d_model"]:
    """Residuals before each layer and after the last, at the chosen positions."""
    n_layers = net.sizes.n_layers
    names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n_layers)), f"blocks.{n_layers - 1}.hook_resid_post"]
    found: list[Tensor] = []
    with net.hooks([(name, lambda resid, hook: found.append(resid[chosen])) for name in names]):
        net.forward(batch.tokens)
    return torch.stack(found)


class _Checkpoint:
    """The state of a training, written atomically to a file next to the future lens."""

    def __init__(self, folder: str | Path, about: dict[str, Any]) -> None:
        self.folder = make_folder(folder)
        self.path = self.folder / "tuned_lens.part.safetensors"
        self.key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        self._written, self._cost = time.monotonic(), 0.0

    def restore(self, training: _Training) -> int:
        """Restore an interrupted training; return the number of finished steps."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("key") != self.key:
                    return 0
                training.restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                return int(facts["steps"])
        except (OSError, SafetensorError):
            return 0

    def keep(self, training: _Training, steps: int) -> None:
        """Write the state, if it was last written long enough ago."""
        from safetensors.torch import save

        start = time.monotonic()
        if start - self._written < self._cost / _SHARE_FOR_WRITING:
            return
        tensors = {name: tensor.cpu().contiguous() for name, tensor in training.tensors().items()}
        write_atomically(self.path, save(tensors, metadata={"key": self.key, "steps": str(steps)}))
        self._written = time.monotonic()
        self._cost = self._written - start
