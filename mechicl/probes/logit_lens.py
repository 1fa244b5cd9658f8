"""Logit lens: what the model would predict if a residual in the middle were the last (*Stages of Inference*, 5.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch
from mechicl.metrics import jaccard, js_divergence, kl_of_log_probs, log_probs, token_rank, top_k_ids
from mechicl.models import Adapter, Blockwise, blockwise, hooked
from mechicl.probes.tuned_lens import TunedLens
from mechicl.prompts import PromptBatch

Lens = Literal["corrected", "authors"]
QUANTITIES = (
    "entropy", "kl", "kl_reverse", "js_divergence", "top_k_overlap", "agreement", "reciprocal_rank", "cosine", "loss",
)  # fmt: skip
_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class LogitLens(Probe):
    """Sums over each sequence's positions of lens measures: reading [sequence point quantity].

    Points are the residuals before each layer and the one after the last, L + 1 in all. Quantities (`QUANTITIES`):
    entropy in bits; KL(final || lens), KL(lens || final) and Jensen-Shannon divergence in nats; Jaccard overlap of the
    `top_k` tokens; whether the most probable token is the final one, and 1 / rank of the final one; cosine of the
    residual with the last residual; loss on the next token in nats. In running text positions are all but the first
    (and, with `last=False`, but the last); in prompts it is q alone, and there is no loss.

    `lens="corrected"` applies the final norm to each residual, and the unembedding with its bias: at the last point
    the lens is the model. `"authors"` is what the authors' library did: every residual is centred and divided by the
    scale of the *last* residual (in a model with RMS norm: nothing is done), and b_U is left out. It assumes folded
    norms. A `TunedLens` translates each residual first and then does as the corrected one.
    """

    lens: Lens | TunedLens = "corrected"
    top_k: int = 10
    last: bool = True
    only: tuple[str, ...] = QUANTITIES
    """Quantities that are computed; the others are left 0."""
    axes = ("sequence", "point", "quantity")

    def __post_init__(self) -> None:
        if self.lens not in ("corrected", "authors") and not isinstance(self.lens, TunedLens):
            raise InputError(f"lens is {self.lens!r}; it is 'corrected', 'authors', or a TunedLens.")

    @property
    def name(self) -> str:
        """corrected, authors or tuned."""
        return "tuned" if isinstance(self.lens, TunedLens) else self.lens

    def counts(self, lengths: Int[Tensor, "sequence"]) -> Int[Tensor, "sequence quantity"]:
        """Terms of each sum over running text of these lengths."""
        targets = (lengths - 2).clamp(min=0)
        positions = (lengths - 1).clamp(min=0) if self.last else targets
        return torch.stack([positions] * (len(QUANTITIES) - 1) + [targets], -1)

    def watch(self, model: Any, batch: Batch) -> Watch:
        net = self._weights_of(model) if self.lens == "authors" else hooked(model)
        if isinstance(self.lens, TunedLens):
            self.lens.check(net)
        n_layers = net.sizes.n_layers
        names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n_layers)), f"blocks.{n_layers - 1}.hook_resid_post"]
        found: dict[str, Tensor] = {}

        def at(name: str) -> Callable[..., None]:
            def see(resid: Tensor, hook: Any) -> None:
                found[name] = resid.detach()

            return see

        return Watch(
            hooks=[(name, at(name)) for name in names],
            result=lambda: self._measure(net, batch, [found.pop(name) for name in names]),
        )

    @torch.no_grad()
    def _measure(
        self, net: Adapter, batch: Batch, residuals: list[Float[Tensor, "batch pos d_model"]]
    ) -> Float[Tensor, "batch point quantity"]:
        sequence, position = self._positions(batch).nonzero(as_tuple=True)
        points = torch.stack([resid[sequence, position] for resid in residuals])
        followed = (position + 1 < batch.lengths[sequence]) & (not isinstance(batch, PromptBatch))
        targets = batch.tokens[sequence, (position + 1).clamp(max=batch.tokens.shape[1] - 1)]
        chunk = max(1, _LOGITS_AT_ONCE // net.sizes.d_vocab)
        parts = [slice(start, start + chunk) for start in range(0, len(sequence), chunk)]
        values = [points.new_zeros(len(points), 0, len(QUANTITIES), dtype=torch.float32)]
        values += [self._values(net, points[:, part], targets[part]) for part in parts]
        of_token = torch.cat(values, 1).cpu()
        of_token[..., -1] *= followed.cpu()
        # Summed on the host: mps has no float64, and CUDA adds to an index in no fixed order.
        sums = torch.zeros(len(batch.tokens), len(points), len(QUANTITIES), dtype=torch.float64)
        return sums.index_add_(0, sequence.cpu(), of_token.transpose(0, 1).double()).float()

    def _positions(self, batch: Batch) -> Tensor:
        place = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        if isinstance(batch, PromptBatch):
            return place == batch.target[:, None]
        return (place > 0) & (place < batch.lengths[:, None] - (0 if self.last else 1))

    def _values(
        self, net: Adapter, points: Float[Tensor, "point token d_model"], targets: Int[Tensor, "token"]
    ) -> Float[Tensor, "point token quantity"]:
        final = log_probs(net.lens(points[-1]))
        scale = _final_scale(net, points[-1]) if self.lens == "authors" and net.sizes.centred else None
        top, top_k = final.argmax(-1), min(self.top_k, final.shape[-1])
        top_ids = top_k_ids(final, top_k)

        def read(number: int) -> Tensor:
            point = self.lens(number, points[number]) if isinstance(self.lens, TunedLens) else points[number]
            log_q = log_probs(self._logits(net, point, scale))
            measures: dict[str, Callable[[], Tensor]] = {
                "entropy": lambda: -(log_q.exp() * log_q).sum(-1) / math.log(2),
                "kl": lambda: kl_of_log_probs(final, log_q),
                "kl_reverse": lambda: kl_of_log_probs(log_q, final),
                "js_divergence": lambda: js_divergence(final, log_q),
                "top_k_overlap": lambda: jaccard(top_ids, top_k_ids(log_q, top_k)),
                "agreement": lambda: (log_q.argmax(-1) == top).float(),
                "reciprocal_rank": lambda: 1 / token_rank(log_q, top),
                "cosine": lambda: torch.cosine_similarity(point.float(), points[-1].float(), dim=-1),
                "loss": lambda: -log_q.gather(-1, targets[:, None])[:, 0],
            }
            nothing = log_q.new_zeros(len(log_q))
            return torch.stack([measures[name]() if name in self.only else nothing for name in QUANTITIES], -1)

        return torch.stack([read(number) for number in range(len(points))])

    def _logits(self, net: Adapter, point: Tensor, scale: Tensor | None) -> Float[Tensor, "token d_vocab"]:
        if self.lens != "authors":
            return net.lens(point)
        if scale is not None:
            point = (point - point.mean(-1, keepdim=True)) / scale
        W_U = self._weights_of(net).W_U
        return (point.to(W_U.device, W_U.dtype) @ W_U).float()

    def _weights_of(self, model: Any) -> Blockwise:
        return blockwise(model, "LogitLens with lens='authors'")


def _final_scale(net: Adapter, last: Float[Tensor, "token d_model"]) -> Float[Tensor, "token 1"]:
    """The number by which the final norm divides each residual."""
    found: list[Tensor] = []
    with net.hooks([("ln_final.hook_scale", lambda scale, hook: found.append(scale))]):
        net.read(last[None])
    return found[0][0]
