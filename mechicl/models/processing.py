"""Explicit weight processing, because TransformerLens's defaults change what some analyses measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch

from mechicl.errors import InputError

ProcessingName = Literal["none", "fold", "fold-uncentred"]
"""Weights as trained; norms folded and weights centred; or the same but for the unembedding, which is not centred."""


@dataclass(frozen=True)
class DevicePlacement:
    """The dtype and device of a model's weights."""

    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"
    n_devices: int = 1


@dataclass(frozen=True)
class Processing:
    """Which of TransformerLens's weight processing steps to apply; names as in `HookedTransformer.from_pretrained`."""

    fold_ln: bool = False
    center_writing_weights: bool = False
    center_unembed: bool = False
    fold_value_biases: bool = False

    @classmethod
    def named(cls, name: str, *, fold_value_biases: bool = False) -> Processing:
        """The processing of this name; raises `InputError` for another one."""
        if name not in get_args(ProcessingName):
            raise InputError(
                f"Processing {name!r} does not exist; use 'none' (weights as trained), 'fold', or 'fold-uncentred'."
            )
        fold = name != "none"
        return cls(fold, fold, name == "fold", fold_value_biases)

    def possible_for(self, cfg: Any) -> Processing:
        """The steps that leave this architecture's log-probabilities unchanged.

        Norms after the sublayers (OLMo 2) cannot be folded, only LayerNorm discards the mean that centring removes, and
        soft-capped logits are not invariant to a constant.
        """
        from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

        # A Bridge's configuration names the architecture differently.
        architecture = getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", None)
        folds = self.fold_ln and architecture not in POST_NORM_ARCHITECTURES
        layer_norm = cfg.normalization_type in ("LN", "LNPre")
        capped = (cfg.output_logits_soft_cap or 0) > 0
        return replace(
            self,
            fold_ln=folds,
            center_writing_weights=self.center_writing_weights and folds and layer_norm,
            center_unembed=self.center_unembed and not capped,
        )

    def describe(self, cfg: Any) -> str:
        """The steps applied to this architecture, for provenance: "none" or their names."""
        return "+".join(name for name, taken in asdict(self.possible_for(cfg)).items() if taken) or "none"


def process(model: Any, how: Processing) -> Any:
    """Process the weights of a loaded model in place, and return it."""
    if how == Processing():
        return model
    if hasattr(model, "original_model"):
        model.enable_compatibility_mode(disable_warnings=True, **asdict(how.possible_for(model.cfg)))
    else:
        processed: dict[str, Any] = {}
        # TransformerLens copies one tensor at a time and walks through all modules for each; here they are collected.
        model.load_state_dict = lambda state, **_: processed.update(state)
        try:
            model.load_and_process_state_dict(dict(model.state_dict()), **asdict(how.possible_for(model.cfg)))
        finally:
            del model.load_state_dict
        load_state(model, processed)
    return model


def load_state(model: Any, state: dict[str, Any]) -> None:
    """Copy weights into a model; parameters that an architecture lacks (a bias of 0) keep their initial values."""
    missing = model.load_state_dict(model.fill_missing_keys(dict(state)), strict=False)
    assert not missing.missing_keys, missing
