"""`load_model`: one function for every source of models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mechicl.doors import door
from mechicl.errors import InputError, check_count, retold
from mechicl.library import Backend, chosen
from mechicl.limits import check_weights_fit, free_bytes
from mechicl.models import smollm2
from mechicl.models.again import note_call
from mechicl.models.compare import comparison_key, remember_comparison, was_compared
from mechicl.models.convert import check_finite, convert, set_context
from mechicl.models.gguf import gguf_original
from mechicl.models.local import folder_original
from mechicl.models.names import understood
from mechicl.models.original import Original
from mechicl.models.processing import DevicePlacement, Processing, ProcessingName, process
from mechicl.models.provenance import remember
from mechicl.models.spread import devices_from, spread
from mechicl.models.tokenizers import give_tokenizer

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

_HALF = (torch.float16, torch.bfloat16)


@door
def load_model(
    name: str | Path | HookedTransformer | TransformerBridge,
    *,
    processing: ProcessingName = "none",
    fold_value_biases: bool = False,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    n_devices: int = 1,
    n_ctx: int | None = None,
    trust_remote_code: bool = False,
    backend: Backend | None = None,
) -> HookedTransformer | TransformerBridge:
    """Load a model as a `HookedTransformer`, or as a `TransformerBridge` with TransformerLens 4.

    The converted model is compared with the original, in float32 whatever `dtype` is (if memory permits). The outcome
    is cached, so the next load is fast.

    Args:
        name: "tiny-icl" (shipped); "smollm2-135m-q4" (a real model that pip fetches once, 93 MB); a name that
            TransformerLens knows, with a revision if need be ("gpt2-xl", "EleutherAI/pythia-70m@step1000"); a local
            Hugging Face folder or GGUF file (no network is touched); or a model, which is returned unchanged, whatever
            the other arguments.
        processing: "none" leaves weights unprocessed. "fold" folds norms into the next layer and centres the
            weights that write to the residual stream (LayerNorm models) and the unembedding; "fold-uncentred" does not
            centre the unembedding. Log-probabilities are unchanged.
        fold_value_biases: also fold value biases into the output bias. The output is unchanged, but saliency and
            re-weighting change, because value biases no longer pass through attention; never done by default.
        dtype: data type of the loaded weights, whatever is on disk.
        device: default: "cuda" if available.
        n_devices: number of GPUs, from `device` on, over which to spread the blocks; everything else is on the first.
        n_ctx: longest sequence in tokens; the configuration's by default. Learned positions cannot be exceeded; no
            model is trained beyond the configuration's number.
        trust_remote_code: let a model run Python code that comes with it.
        backend: "hooked" for a `HookedTransformer`, "bridge" for a `TransformerBridge`; default: the first with
            TransformerLens 3.9, the second with 4, which has only that.

    Raises `InputError`, in one sentence, for whatever cannot be loaded.
    """
    if not isinstance(name, (str, Path)):
        from mechicl.models.adapter import hooked

        hooked(name)  # rejects anything but a model
        return name
    check_count("n_devices", n_devices)
    backend = chosen(backend)
    how = Processing.named(processing, fold_value_biases=fold_value_biases)
    place = DevicePlacement(parse_dtype(dtype), parse_device(device, n_devices), n_devices)
    with _quiet():
        if understood(name).kind == "shipped":
            model, facts = _load_shipped(how, place, n_ctx, backend)
        else:
            original = find_original(name, trust_remote_code=trust_remote_code)
            model = _load(original, how, place, n_ctx, backend)
            facts = {**original.facts, "files_sha256": original.digest}
    remember(model, source=str(name), processing=how.describe(model.cfg), **facts)
    note_call(
        model, name, processing=processing, fold_value_biases=fold_value_biases, dtype=dtype, n_devices=n_devices,
        n_ctx=n_ctx, trust_remote_code=trust_remote_code, backend=backend,
    )  # fmt: skip
    return model


def find_original(name: str | Path, *, trust_remote_code: bool = False) -> Original:
    """The model that a name refers to: the real model, a folder, a GGUF file, or the hub; InputError if none."""
    named = understood(name)
    if named.kind == "wheel" or (named.kind == "gguf" and smollm2.is_this(named.path)):
        smollm2.accept(named.path)
        return smollm2.original()
    if named.kind == "real":
        return smollm2.original()
    if named.kind == "gguf":
        return gguf_original(named.path)
    if named.kind == "folder":
        return folder_original(named.path, trust_remote_code=trust_remote_code)
    from mechicl.models.published import hub_original

    return hub_original(named.hub, named.revision, trust_remote_code=trust_remote_code)


def _load_shipped(
    how: Processing, place: DevicePlacement, n_ctx: int | None, backend: Backend
) -> tuple[Any, dict[str, str]]:
    from mechicl.shipped.model import load_tiny_icl, weights_digest

    model = process(load_tiny_icl(place.device, place.dtype, backend), how)
    check_finite(model)
    set_context(model, model.cfg.n_ctx if n_ctx is None else n_ctx)
    spread(model, devices_from(torch.device(place.device), place.n_devices))
    return model, {"files_sha256": weights_digest()}


def _load(original: Original, how: Processing, place: DevicePlacement, n_ctx: int | None, backend: Backend) -> Any:
    if original.parameters is not None:  # before anything is read, or fetched
        check_weights_fit(original.name, original.parameters, place.dtype.itemsize, "cpu")
    dtype = place.dtype
    if dtype in _HALF and _fits_in_float32(original):
        dtype = torch.float32
    key = comparison_key(original.digest, processing=how, dtype=dtype, n_ctx=n_ctx, **_class(backend))
    agreed = was_compared(key)
    model = convert(
        original.load(dtype), how, place,
        name=original.name, n_ctx=n_ctx, compared=agreed, remote_code=original.remote_code, backend=backend,
    )  # fmt: skip
    if not agreed:
        remember_comparison(key)
    model.cfg.tokenizer_name = original.tokenizer_name
    # Try to encode something, with whatever settings it has read.
    with retold(lambda error: f"The tokenizer of {original.name} does not work ({error}); save it again."):
        give_tokenizer(model, original.tokenizer())
    return model


def _class(backend: Backend) -> dict[str, str]:
    """What else a comparison's outcome depends on; empty for a HookedTransformer, for compatibility."""
    return {} if backend == "hooked" else {"backend": backend}


def _fits_in_float32(original: Original) -> bool:
    """Whether a model and its conversion fit into memory in float32, which the comparison uses."""
    free = free_bytes("cpu")
    return original.parameters is not None and (free is None or 2.2 * 4 * original.parameters < free)


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating dtype from its name ("float32", "bfloat16", ...); raises `InputError` for anything else."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"No model runs in dtype {dtype!r}; use float32, bfloat16, float16 or float64.")
    return found


def parse_device(device: str | torch.device | None, n_devices: int = 1) -> torch.device:
    """An available device, by default a GPU if there is one; raises `InputError` otherwise."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        found = torch.device(device if device is not None else ("cuda" if gpus else "cpu"))
    except RuntimeError as error:
        raise InputError(f"PyTorch knows no device {device!r}; use cpu, cuda or cuda:1.") from error
    if found.type not in ("cpu", "cuda", "mps", "xpu"):  # such as meta, which holds no numbers
        raise InputError(f"Models cannot run on device {device!r}; use cpu, cuda or cuda:1.")
    if found.type in ("mps", "xpu") and not getattr(torch, found.type).is_available():
        raise InputError(f"PyTorch finds no {found.type} device here; use cpu.")
    needed = (found.index or 0) + n_devices if found.type == "cuda" or n_devices > 1 else 0
    if needed > gpus or (found.index or 0) >= max(gpus, 1):
        asks = "a GPU" if needed <= 1 else f"{needed} GPUs"
        raise InputError(f"Device {str(found)!r} needs {asks}, and there are {gpus} here; use cpu.")
    if n_devices > 1 and found.type != "cuda":
        raise InputError(f"n_devices={n_devices} needs device='cuda', got {found}.")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TransformerLens's deprecation notice, its print on loading, and a progress bar."""
    from transformers.utils import logging as transformers_logging

    bar = transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        # TransformerLens 3.9 announces 4, which mechicl also supports.
        warnings.filterwarnings("ignore", message="HookedTransformer.*deprecated")
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if bar:
                transformers_logging.enable_progress_bar()
