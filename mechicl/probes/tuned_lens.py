"""Tuned lens: an affine map of each layer's residual that the logit lens reads through (Belrose et al. 2023)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.files.saved import packed, read_tensors
from mechicl.files.writing import make_folder, write_atomically
from mechicl.models import hooked, provenance
from mechicl.models.provenance import is_same_model

_FILE = "tuned_lens.safetensors"


@door
@dataclass(frozen=True, eq=False)
class TunedLens:
    """Translators h + A h + b, one per residual before a layer; the residual after the last is read unchanged.

    Intermediate residuals represent the final prediction in another basis, which the logit lens mistakes for missing
    information. The translator corrects what an affine map can; with A = 0 and b = 0 it is the corrected logit lens.
    """

    A: Float[Tensor, "layer d_model d_model"]
    b: Float[Tensor, "layer d_model"]
    about: Mapping[str, Any] = field(default_factory=dict)
    """The model, text and settings that it was fitted with; plain values."""
    kl: Float[Tensor, "step layer"] | None = None
    """KL(final || lens) in nats on each training batch, before the step."""

    def __post_init__(self) -> None:
        if self.A.ndim != 3 or self.A.shape[1] != self.A.shape[2] or self.b.shape != self.A.shape[:2]:
            raise InputError(
                f"A has shape {list(self.A.shape)} and b {list(self.b.shape)}; expected [layer d_model d_model] and "
                "[layer d_model]."
            )

    def __repr__(self) -> str:
        return f"TunedLens({self.about.get('model', 'unknown model')}, {len(self.A)} layers, {self.digest[:12]})"

    def __call__(self, point: int, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """The residual before layer `point`, translated to the last; computed in float32, returned in its own dtype."""
        if point == len(self.A):
            return resid
        A, b = self.A[point].to(resid.device), self.b[point].to(resid.device)
        full = resid.float()
        return (full + full @ A.T + b).to(resid.dtype)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the translators."""
        digest = hashlib.sha256()
        for part in (self.A, self.b):
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check(self, model: Any) -> None:
        """Raise InputError for another model: other weights, or the same in another processing or dtype."""
        if not is_same_model(hooked(model).raw, self.about):
            facts = provenance(model)
            raise InputError(
                f"This tuned lens was fitted to {self.about.get('model', 'an unknown model')} "
                f"(processing {self.about.get('processing')}, {self.about.get('dtype')}), not to {hooked(model).name} "
                f"(processing {facts['processing']}, {facts['dtype']}); load that model in the same way, or fit a lens "
                "to this one."
            )

    def check_apart(self, corpus: TokenCorpus) -> None:
        """Raise InputError for text that it was trained on."""
        shared = set(self.about.get("sequences", ())) & set(corpus.sequence_digests())
        if shared:
            raise InputError(
                f"{len(shared)} of {len(corpus)} sequences are among those that the tuned lens learned from; judge it "
                "on other text (`corpus.apart` divides one)."
            )

    def save(self, folder: str | Path) -> Path:
        """Write `tuned_lens.safetensors` and `tuned_lens.json`; return the path of the former."""
        path = make_folder(folder) / _FILE
        parts = {"A": self.A, "b": self.b} | ({} if self.kl is None else {"kl": self.kl})
        payload, facts = packed(parts, {"about": dict(self.about)})
        path.with_suffix(".json").unlink(missing_ok=True)  # an interruption leaves no lens, not two halves of two
        write_atomically(path, payload)
        write_atomically(path.with_suffix(".json"), facts)
        return path

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds a saved lens."""
        return (Path(folder) / _FILE).with_suffix(".json").is_file()

    @classmethod
    @door
    def load(cls, folder: str | Path) -> TunedLens:
        """The lens saved in a folder.

        Raises:
            InputError: there is none, or its two files do not match.
        """
        tensors, facts = read_tensors(Path(folder) / _FILE, "tuned lens")
        about = facts.get("about")
        if not {"A", "b"} <= set(tensors) <= {"A", "b", "kl"} or set(facts) != {"about"} or not isinstance(about, dict):
            raise InputError(f"What is saved in {folder} is not a tuned lens; fit it again.")
        learned = about.get("sequences", [])
        if not isinstance(learned, list) or not all(isinstance(one, str) for one in learned):
            raise InputError(f"The JSON of the tuned lens in {folder} does not say what it learned from; fit it again.")
        return cls(**tensors, about=about)
