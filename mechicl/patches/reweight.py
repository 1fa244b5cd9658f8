"""Anchor re-weighting: how strongly q attends to each class's label words, learned (section 3.1)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.files.json_files import parse_json
from mechicl.files.saved import packed, read_tensors
from mechicl.files.writing import make_folder, write_atomically
from mechicl.hooks import Hook, Patch
from mechicl.models import hooked
from mechicl.models.provenance import is_same_model
from mechicl.prompts import PromptBatch

Placement = Literal["postsoftmax", "presoftmax"]


@dataclass(frozen=True, eq=False)
class ReweightAnchors(Patch):
    """Multiply A(q, p) by exp(beta) of layer, head and class, after the softmax and without renormalising (Eq. 9).

    A size of 1 shares beta over layers or heads. `placement="presoftmax"` adds beta to the score instead, which
    renormalises. beta = 0 changes nothing. On weights other than those it was fitted to, it also acts, with a warning.
    """

    beta: Float[Tensor, "layer head class"]
    placement: Placement = "postsoftmax"
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted on: model, task, label words, settings; plain values."""
    scope = "target"
    _met: WeakSet[Any] = field(default_factory=WeakSet, init=False, repr=False)
    """Models already compared with the one it was fitted to."""

    def __post_init__(self) -> None:
        if self.beta.ndim != 3 or self.placement not in ("postsoftmax", "presoftmax"):
            raise InputError(
                f"beta has shape {list(self.beta.shape)} and placement is {self.placement!r}; expected [layer head "
                "class] (1 shares an axis) and 'postsoftmax' or 'presoftmax'."
            )

    def __repr__(self) -> str:
        return f"ReweightAnchors(beta {list(self.beta.shape)}, {self.placement}, {dict(self.about)})"

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        self._check_labels(batch)
        self._tell_of_another(model)
        sizes = hooked(model).sizes
        shape = (sizes.n_layers, sizes.n_heads, len(batch.label_ids))
        try:
            beta = self.beta.to(batch.device).expand(shape)
        except RuntimeError:
            raise InputError(
                f"beta has shape {list(self.beta.shape)}; this model and these prompts need layers, heads and classes "
                f"{list(shape)}, or 1 for a shared axis."
            ) from None
        return reweighted(beta[None], self.placement, batch)

    def _check_labels(self, batch: PromptBatch) -> None:
        """A beta belongs to a label word; if that word is known, raise InputError for others."""
        fitted, found = self.about.get("label_words"), list(batch.prompts[0].label_words)
        if fitted is not None and list(fitted) != found:
            raise InputError(
                f"This re-weighting was fitted for the label words {', '.join(map(repr, fitted))}; the prompts have "
                f"{', '.join(map(repr, found))}. Fit one for their task."
            )

    def _tell_of_another(self, model: Any) -> None:
        """A beta may be used on a model other than its own, but with one warning per model."""
        raw, fitted = hooked(model).raw, self.about.get("weight_digest")
        if fitted is None or raw in self._met:
            return
        self._met.add(raw)
        if not is_same_model(raw, self.about):
            warnings.warn(
                f"This re-weighting was fitted to {self.about.get('model', 'another model')} with other weights, "
                f"processing or dtype than {hooked(model).name} has; fit it to this model unless this is intended.",
                stacklevel=2,
            )

    def to_json(self) -> str:
        """Everything, with beta's exact digits, in one text that `from_json` reads."""
        facts = {"placement": self.placement, "about": dict(self.about)}
        return json.dumps(facts | {"beta": self.beta.detach().tolist()}, default=str)

    @classmethod
    def from_json(cls, text: str) -> ReweightAnchors:
        """A re-weighting from the output of `to_json`; InputError for any other text."""
        facts = parse_json(text, "The JSON of the re-weighting", remedy="fit and save it again", lenient=True)
        try:
            return cls(torch.tensor(facts.pop("beta")), **facts)
        except InputError as error:
            raise InputError(f"This JSON is not a re-weighting: {error} Fit and save it again.") from error
        except (TypeError, AttributeError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"This JSON is not a re-weighting ({type(error).__name__}); fit and save it again."
            ) from error

    def save(self, folder: str | Path) -> Path:
        """Write `reweighting.safetensors` and `reweighting.json`; return the path of the former."""
        path = make_folder(folder) / "reweighting.safetensors"
        payload, facts = packed({"beta": self.beta}, {"placement": self.placement, "about": dict(self.about)})
        write_atomically(path, payload)
        write_atomically(path.with_suffix(".json"), facts)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> ReweightAnchors:
        """A re-weighting saved in a folder; InputError if there is none, or an incomplete one."""
        tensors, facts = read_tensors(Path(folder) / "reweighting.safetensors", "re-weighting")
        beta, about = tensors.get("beta"), facts.get("about", {})
        if beta is None or not beta.is_floating_point() or set(facts) - {"placement", "about"}:
            raise InputError(f"What is saved in {folder} is not a re-weighting; fit and save it again.")
        if not isinstance(about, dict) or not isinstance(about.get("label_words", []), list):
            raise InputError(
                f"The JSON of the re-weighting in {folder} does not say where it was fitted; save it again."
            )
        return cls(beta, facts.get("placement", "postsoftmax"), about)


def reweighted(
    beta: Float[Tensor, "one_or_batch layer head class"], placement: Placement, batch: PromptBatch
) -> list[Hook]:
    """The hooks that re-weight the anchors of a batch, by one beta for all its prompts or one per prompt."""
    site = "pattern" if placement == "postsoftmax" else "attn_scores"

    def at(layer: int) -> Callable[..., Tensor]:
        def change(row: Tensor) -> Tensor:
            added = _at_anchors(beta[:, layer], batch, row).to(row.dtype)
            return row * added.exp() if placement == "postsoftmax" else row + added

        return lambda matrix, hook: _with_row(matrix, batch, change)

    return [(f"blocks.{layer}.attn.hook_{site}", at(layer)) for layer in range(beta.shape[1])]


def _at_anchors(
    beta: Float[Tensor, "one_or_batch head class"], batch: PromptBatch, row: Float[Tensor, "batch head key"]
) -> Float[Tensor, "batch head key"]:
    """The class's beta at every label word, 0 at all other keys."""
    heads = row.shape[1]
    classes, places = (x[:, None].expand(-1, heads, -1) for x in (batch.anchor_classes, batch.anchors))
    values = beta.expand(len(row), -1, -1).gather(2, classes)
    return torch.zeros(row.shape, dtype=beta.dtype, device=row.device).scatter(2, places, values)


def _with_row(
    matrix: Float[Tensor, "batch head query key"], batch: PromptBatch, edit: Callable[[Tensor], Tensor]
) -> Float[Tensor, "batch head query key"]:
    """The matrix with its row at q edited."""
    if matrix.shape[2] == 1:  # q alone: there is nothing to put it back into
        return edit(matrix[:, :, 0])[:, :, None]
    prompts = torch.arange(len(batch.target), device=matrix.device)[:, None]
    heads = torch.arange(matrix.shape[1], device=matrix.device)
    row = edit(matrix[prompts, heads, batch.target[:, None]])
    return matrix.index_put((prompts, heads, batch.target[:, None]), row)
