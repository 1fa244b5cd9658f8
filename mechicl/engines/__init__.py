"""Exact shortcuts that follow from causality, and fitting; one file each."""

from mechicl.engines.compression import compress
from mechicl.engines.context import Context, read_context
from mechicl.engines.prefix import run_shared
from mechicl.engines.reweighting import Fit, fit_reweighting
from mechicl.engines.tuned_lens import fit_tuned_lens
from mechicl.engines.wavefront import lesion_sweep

__all__ = [
    "Context", "Fit", "compress", "fit_reweighting", "fit_tuned_lens", "lesion_sweep", "read_context", "run_shared",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
