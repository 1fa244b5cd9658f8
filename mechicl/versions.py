"""Versions of everything that numbers depend on, including mechicl's own code, for provenance."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mechicl.code_digest import measuring_code

_COMPUTE = ("transformer-lens", "transformers", "torch", "numpy", "scipy", "scikit-learn", "pandas", "tokenizers")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of every computing library ("not installed" if missing), and the digest of the code.

    A version number does not change while code is edited, so the code's digest distinguishes edited code.
    """
    found = {"python": platform.python_version()}
    for package in ("mechicl", *_COMPUTE, "datasets", "safetensors", "gguf"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"mechicl code": measuring_code()}


def computing() -> dict[str, str]:
    """Versions of the computing libraries, on which alone numbers depend."""
    return {name: versions()[name] for name in ("python", *_COMPUTE)}


def machine() -> dict[str, Any]:
    """What changes the last digits of numbers for equal versions: processor, BLAS, threads, GPU, precision, system."""
    import torch

    gpu = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if torch.cuda.is_available() else "none"
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return {
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "BLAS": blas[1] if blas else "unknown",
        "threads": torch.get_num_threads(),
        "GPU": gpu,
        "float32 matmul": torch.get_float32_matmul_precision(),
        "system": platform.platform(),
    }
