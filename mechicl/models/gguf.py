"""GGUF files: the weights of llama.cpp, dequantised by transformers' own reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mechicl.errors import InputError, first_line, retold
from mechicl.models.digests import file_digest
from mechicl.models.original import Original, loaded
from mechicl.models.tokenizers import with_padding

_MAGIC = b"GGUF"


def gguf_original(path: Path) -> Original:
    """The model in a GGUF file; raises the same as `read_facts`."""
    facts = read_facts(path)
    return Original(
        name=path.stem,
        digest=file_digest(path),
        parameters=facts["parameters"],
        load=lambda dtype: load_original(path, dtype),
        tokenizer=lambda: load_tokenizer(path),
        facts={"file": path.name, "quantisation": f"{facts['quantisation']}, dequantised"},
    )


def read_facts(path: Path) -> dict[str, Any]:
    """Quantisation and number of weights, from a GGUF file's header.

    Raises:
        InputError: it is not a GGUF file, is one part of several, or is truncated.
    """
    from gguf import GGUFReader, LlamaFileType

    try:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise InputError(f"{path} is not a GGUF file; give one, or a Hugging Face folder.")
        reader = GGUFReader(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give another path.") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); copy it again.") from error
    parts = _field(reader, "split.count")
    if parts and parts > 1:
        raise InputError(f"{path} is one of {parts} parts; join them with llama-gguf-split --merge.")
    kind = _field(reader, "general.file_type")
    names = {int(one): one.name for one in LlamaFileType}
    return {
        "quantisation": names.get(kind, "unknown").removeprefix("MOSTLY_").removeprefix("ALL_"),
        "parameters": sum(int(tensor.n_elements) for tensor in reader.tensors),
    }


def _field(reader: Any, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def load_original(path: Path, dtype: Any) -> Any:
    """The Hugging Face model of a GGUF file, dequantised; missing or unknown weights raise an error that names them."""
    with _said(path), _bar_in_terminals(), read_once():
        model = loaded(path, str(path.parent), gguf_file=path.name, dtype=dtype, local_files_only=True)
    # A dequantised model is a plain one: nothing must treat, or reject, it as quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in a GGUF file, with padding on the right."""
    from transformers import AutoTokenizer

    with _said(path):
        tokenizer = AutoTokenizer.from_pretrained(
            str(path.parent), gguf_file=path.name, local_files_only=True, padding_side="right"
        )
    return with_padding(tokenizer)


@contextmanager
def read_once() -> Iterator[None]:
    """A context that caches reads of a GGUF file: transformers reads its header, which takes seconds for a large
    vocabulary, separately for configuration, weights and tokenizer, and maps names again for every module.
    """
    import gguf

    with (
        patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        yield


@contextmanager
def _bar_in_terminals() -> Iterator[None]:
    """Silence transformers' progress bar, which also appears in log files."""
    from tqdm.auto import tqdm
    from transformers import modeling_gguf_pytorch_utils

    with patch.object(modeling_gguf_pytorch_utils, "tqdm", partial(tqdm, disable=None, leave=False)):
        yield


def _said(path: Path) -> AbstractContextManager[None]:
    """Report an architecture or tokenizer unknown to transformers' reader, or a damaged file, in one sentence."""
    remedy = "give the model's Hugging Face folder"
    return retold(lambda error: f"Transformers cannot read {path}: {first_line(error)}; {remedy}.")
