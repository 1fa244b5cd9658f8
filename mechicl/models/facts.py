"""What a model's numbers depend on beyond its parameters and its configuration: the modules themselves.

For example an activation, an epsilon, an attention scale, a user-defined class or function, and its buffers.
"""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mechicl.library import has_hooked_transformer

_LIBRARIES = ("torch", "transformer_lens", "builtins", "abc")
"""Packages whose code is identified by its name; results record their versions."""
_GROWN = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
"""TransformerLens's own buffers, made from the configuration; some grow while it runs."""
_sources: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Digests of the sources of classes and of functions' code: Python parses a whole file to find one."""
_DEPTH = 4
"""Depth to which a user-defined function's closures, arguments and bases are described."""


def module_facts(raw: Any) -> list[str]:
    """A description of each module beyond its parameters: class, plain attributes, functions and buffers."""
    facts = []
    if has_hooked_transformer():
        from mechicl.models.own import patches  # imports TransformerLens, which is slow

        facts += [f"{name} {described(method)}" for name, method in patches()]
    for name, module in raw.named_modules():
        if type(module).__name__ == "HookPoint" and "forward" not in vars(module):
            continue  # it computes nothing
        facts.append(f"{name} {described(type(module))}")
        facts += [
            f"{name}.{key} {text}" for key, text in attributes(module, root=module is raw and hasattr(raw, "cfg"))
        ]
        grown = _GROWN if any(kind.__module__.startswith("transformer_lens") for kind in type(module).__mro__) else ()
        buffers = {key: value for key, value in module._buffers.items() if key not in grown and value is not None}
        facts += [f"{name}.{key} {described(value)}" for key, value in buffers.items()]
        if (cfg := getattr(module, "cfg", None)) is not None and cfg is not getattr(raw, "cfg", None):
            facts.append(f"{name}.cfg {settings(cfg)}")
    return facts


def settings(cfg: Any, *without: str) -> list[tuple[str, str]]:
    """A configuration's fields, in order of their names, without a library's internal ones."""
    fields = vars(cfg).items()
    return sorted((name, repr(value)) for name, value in fields if name not in without and not name.startswith("_"))


def attributes(module: Any, *, root: bool) -> list[tuple[str, str]]:
    """A module's own plain values and functions; for a HookedTransformer itself (`root`) only functions, which replace
    its methods.
    """
    plain = () if root else (int, float, str, tuple, torch.dtype, type(None))
    kinds = (FunctionType, MethodType, BuiltinFunctionType, partial, *plain)
    return sorted(
        (key, described(value))
        for key, value in vars(module).items()
        if isinstance(value, kinds) and (not key.startswith("_") or key == "_attention_dir_override")
        if key not in ("training", "name")
    )


def described(value: Any, depth: int = _DEPTH) -> str:
    """A description that changes if a value may behave differently: its source code, and its closure.

    A library's code is described by its name. Global variables are not followed.
    """
    if isinstance(value, int | float | str | bytes | torch.dtype | type(None)):
        return repr(value)
    if isinstance(value, Tensor):
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return f"tensor {tuple(value.shape)} {value.dtype} {hashlib.sha256(bits).hexdigest()}"
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if depth == 0:
        return name
    below = partial(described, depth=depth - 1)
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(below, value))})"
    if isinstance(value, dict):
        return f"dict({', '.join(sorted(f'{below(key)}: {below(one)}' for key, one in value.items()))})"
    if isinstance(value, partial):
        return f"partial({below(value.func)}, {below(value.args)}, {below(value.keywords)})"
    if isinstance(value, MethodType):
        return f"method({below(value.__func__)})"
    if isinstance(value, FunctionType) and not _of_a_library(value):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return f"{name} {_code(value)} {below(cells)} {below(value.__defaults__)} {below(value.__kwdefaults__)}"
    if isinstance(value, type) and not _of_a_library(value):
        return f"{name} {_code(value)} {[below(base) for base in value.__bases__]}"
    if isinstance(value, property):
        return f"property({below(value.fget)})"
    return name


def _content(cell: CellType) -> Any:
    """The contents of a closure cell; None if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _of_a_library(value: Any) -> bool:
    return str(value.__module__).split(".")[0] in _LIBRARIES


def _code(value: Any) -> str:
    """Digest of a function's or a class's source, or of its bytecode if there is no source."""
    known = inspect.unwrap(value).__code__ if isinstance(value, FunctionType) else value
    if known in _sources:
        return _sources[known]
    text = _source(value, known)
    if text is None:
        functions = [value] if isinstance(value, FunctionType) else vars(value).values()
        return _digest(repr([_bytecode(one.__code__) for one in functions if isinstance(one, FunctionType)]))
    _sources[known] = _digest(text)
    return _sources[known]


def _source(value: Any, known: Any) -> str | None:
    """The text of a function or class, if there is one."""
    if getattr(known, "co_filename", "") == "<string>":  # of eval or exec; 3.13 takes it for the text of python -c
        return None
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _bytecode(code: CodeType) -> list[Any]:
    """Instructions, names and constants, without line numbers or addresses."""
    constants = [_bytecode(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]
