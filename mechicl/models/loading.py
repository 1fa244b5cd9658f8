"""`load_model`: one name for every way a HookedTransformer comes to be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mechicl import hub
from mechicl.errors import InputError
from mechicl.limits import check_weights_fit
from mechicl.models.convert import check_finite, clear_unused
from mechicl.models.counting import parameters_of
from mechicl.models.processing import Placement, Processing, process
from mechicl.models.provenance import remember
from mechicl.models.tokenizers import clean_tokenizer, give_tokenizer

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

SHIPPED = "tiny-icl"
_PICKLED = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")


def load_model(
    name: str | Path | HookedTransformer,
    *,
    processing: Literal["none", "fold"] = "none",
    fold_value_biases: bool = False,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    n_devices: int = 1,
    trust_remote_code: bool = False,
) -> HookedTransformer:
    """Load a model as a `HookedTransformer`.

    Args:
        name: "tiny-icl" (shipped), a name TransformerLens knows ("gpt2-xl"), a local Hugging Face directory
            (no network is touched), or a `HookedTransformer`, which is returned as it is, whatever the other
            arguments say.
        processing: "none" keeps the weights as they were trained. "fold" folds norms into the next layer,
            centres what writes to the residual stream (LayerNorm models) and the unembedding;
            log-probabilities stay the same.
        fold_value_biases: also fold value biases into the output bias. It leaves the output alone and
            silently changes saliency and re-weighting (attention rows no longer count fully), so it is never
            done unasked.
        dtype: of the loaded weights, whatever is on disk.
        device: "cuda" where there is one by default.
        n_devices: split the blocks over so many GPUs.
        trust_remote_code: let a model run Python code that came with it.

    Raises `InputError`, in one sentence, for whatever cannot be loaded.
    """
    if not isinstance(name, (str, Path)):
        from mechicl.models.adapt import hooked

        raw: HookedTransformer = hooked(name).raw
        return raw
    how = Processing.named(processing, fold_value_biases=fold_value_biases)
    place = Placement(parse_dtype(dtype), parse_device(device, n_devices), n_devices)
    directory = Path(name).expanduser()
    with _quiet():
        if str(name) == SHIPPED:
            from mechicl.shipped import load_tiny_icl

            model = process(load_tiny_icl(device=place.device, dtype=place.dtype), how)
            check_finite(model)
        elif _is_directory(directory):
            from mechicl.models.local import load_directory

            model = load_directory(directory, how, place, trust_remote_code=trust_remote_code)
        else:
            model = _load_from_hub(str(name), how, place, trust_remote_code=trust_remote_code)
    remember(model, source=str(name), processing=how.describe(model.cfg))
    return model


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # such as a name longer than names may be
        return False


def _load_from_hub(name: str, how: Processing, place: Placement, *, trust_remote_code: bool) -> Any:
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import NEED_REMOTE_CODE_MODELS

    official = name_on_hub(name)
    if official.startswith(_PICKLED):
        raise InputError(f"{official} is published as a pickle, which can run code; mechicl never opens one")
    if official.startswith(NEED_REMOTE_CODE_MODELS) and not trust_remote_code:
        raise InputError(f"{official} brings its own Python code; pass trust_remote_code=True if you trust it")
    extra = {"trust_remote_code": True} if trust_remote_code else {}
    if (numbers := parameters_of(official)) is not None:  # before anything is downloaded
        check_weights_fit(official, numbers, place.dtype.itemsize, "cpu")
    try:
        with hub.at_hand():
            hub.announce(official)
            model = HookedTransformer.from_pretrained(name, **place.arguments(), **how.flags(), **extra)
            tokenizer = clean_tokenizer(model.cfg.tokenizer_name or official, trust_remote_code=trust_remote_code)
    except (OSError, ConnectionError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"{official} could not be fetched from the hub ({first}); connect, or give a local directory"
        ) from error
    except (AttributeError, KeyError) as error:
        raise InputError(
            f"TransformerLens cannot read the configuration of {official} with this transformers ({error}); "
            "download the model and give its directory"
        ) from error
    clear_unused(model)
    check_finite(model)
    give_tokenizer(model, tokenizer)
    return model


def name_on_hub(name: str) -> str:
    """The hub's name of a model that TransformerLens knows, such as openai-community/gpt2-xl for gpt2-xl."""
    from transformer_lens.loading_from_pretrained import make_model_alias_map

    aliases = make_model_alias_map()
    if name.lower() not in aliases:
        raise InputError(_unknown(name, list(aliases)))
    return str(aliases[name.lower()])


def _unknown(name: str, known: list[str]) -> str:
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        return f"there is no directory {name}; give a Hugging Face model directory, a hub name or {SHIPPED!r}"
    near = get_close_matches(name.lower(), [*known, SHIPPED], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}" if near else "TransformerLens's documentation lists the names"
    return f"no model {name!r}: not a name that TransformerLens knows and not a directory here; {hint}"


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating dtype from its name ("float32", "bfloat16", ...); raises `InputError` for anything else."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"no model runs in dtype {dtype!r}; use float32, bfloat16, float16 or float64")
    return found


def parse_device(device: str | torch.device | None, n_devices: int = 1) -> torch.device:
    """A device that exists here, a GPU where there is one by default; raises `InputError` otherwise."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        found = torch.device(device if device is not None else ("cuda" if gpus else "cpu"))
    except RuntimeError as error:
        raise InputError(f"device {device!r} is not one PyTorch knows; use cpu, cuda or cuda:1") from error
    if found.type not in ("cpu", "cuda", "mps", "xpu"):  # such as meta, which holds no numbers
        raise InputError(f"device {device!r} runs no model here; use cpu, cuda or cuda:1")
    needed = n_devices if n_devices > 1 else int(found.type == "cuda")
    if needed > gpus or (found.index or 0) >= max(gpus, 1):
        raise InputError(f"device {str(found)!r} needs {_gpus(needed, found)}, and there are {gpus} here; use cpu")
    if n_devices > 1 and found.type != "cuda":
        raise InputError(f"n_devices={n_devices} needs device='cuda', got {found}")
    return found


def _gpus(needed: int, found: torch.device) -> str:
    """How many GPUs a device and a number of devices ask for, in words."""
    count = max(needed, (found.index or 0) + 1)
    return "a GPU" if count == 1 else f"{count} GPUs"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TransformerLens's deprecation notice, its print on loading, and a progress bar."""
    from transformers.utils import logging as transformers_logging

    bar = transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.filterwarnings("ignore", message="HookedTransformer.*deprecated")
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if bar:
                transformers_logging.enable_progress_bar()
