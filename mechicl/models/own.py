"""Determine which modules of a HookedTransformer are TransformerLens's own.

The faster paths reimplement TransformerLens's modules, so they apply only if no module was replaced, subclassed or
patched. Otherwise the model's own forward pass runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from torch.nn import Identity
from transformer_lens import HookedTransformer
from transformer_lens import components as tl
from transformer_lens.components.mlps.gated_mlp_4bit import GatedMLP4Bit
from transformer_lens.components.mlps.gpt_oss_moe import GptOssMoE
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS, XIELU

from mechicl.models.silent import has_hooks

_NORMS = frozenset((tl.LayerNorm, tl.LayerNormPre, tl.RMSNorm, tl.RMSNormPre, Identity))
_KINDS: dict[str, frozenset[type]] = {
    **dict.fromkeys(("ln1", "ln1_post", "ln2", "ln2_post", "ln_final", "q_norm", "k_norm", "ln"), _NORMS),
    "attn": frozenset((tl.Attention, tl.GroupedQueryAttention)),
    "mlp": frozenset((tl.MLP, tl.GatedMLP, tl.MoE, GatedMLP4Bit, GptOssMoE)),
    "embed": frozenset((tl.Embed,)),
    "pos_embed": frozenset((tl.PosEmbed,)),
    "unembed": frozenset((tl.Unembed,)),
}
"""The classes that a part of a model may have. TransformerLens never calls a child of any other name."""
_BLOCK = frozenset((tl.TransformerBlock,))
_RUN_AS_THEY_ARE = (tl.MoE, GatedMLP4Bit, GptOssMoE)
"""MLPs that are always called as modules, so what is inside them does not matter."""
_IN_ATTENTION = frozenset(("ln1", "ln1_post", "attn", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input"))
_IN_MLP = frozenset(("ln2", "ln2_post", "mlp", "hook_mlp_in"))
_PASS = ("forward", "input_to_embed", "get_residual")
"""The methods of a HookedTransformer that lead from tokens to the last residual."""


class Survey(NamedTuple):
    """A user's changes to a block."""

    foreign: str | None
    """The module that is not TransformerLens's own, in words; None if all are."""
    attention: bool
    """Whether a hook is installed in the attention or in the norms around it."""
    mlp: bool
    """Whether a hook is installed in the MLP or in the norms around it."""


def survey(block: Any, cfg: Any) -> Survey:
    """Inspect one block of a model with this configuration."""
    reason = patched_class()
    if reason is None and (change := _changed(block, _BLOCK, cfg)) is not None:
        reason = _place(block) + change
    if reason is not None:
        return Survey(reason, True, True)
    attention = mlp = False
    for name, part in block._modules.items():
        if part is None:
            continue
        change, heard = _look(name, part, cfg)
        if change is not None:
            return Survey(f"{_place(block)}.{name}{change}", True, True)
        mlp |= heard and name in _IN_MLP
        attention |= heard and name in _IN_ATTENTION
    return Survey(None, attention, mlp)


def foreign(raw: Any) -> str | None:
    """The first module between tokens and the last residual that is not TransformerLens's own, in words."""
    inside = (survey(block, raw.cfg).foreign for block in raw.blocks)
    return foreign_outside(raw) or next(filter(None, inside), None)


def foreign_outside(raw: Any) -> str | None:
    """The same outside the blocks: the model's own forward pass and its embeddings."""
    kind = type(raw)
    for name in _PASS:
        if getattr(kind, name) is not getattr(HookedTransformer, name) or name in vars(raw):
            return f"{kind.__name__}.{name} is a function of your own"
    return foreign_part(raw, "embed", "pos_embed")


def foreign_part(raw: Any, *names: str) -> str | None:
    """Why one of these parts outside the blocks is not TransformerLens's own, in words; None if all are, or absent."""
    if (reason := patched_class()) is not None:
        return reason
    for name in names:
        part = raw._modules.get(name)
        change = None if part is None else _look(name, part, raw.cfg)[0]
        if change is not None:
            return name + change
    return None


def _look(name: str, part: Any, cfg: Any) -> tuple[str | None, bool]:
    """Why a module or one inside it is foreign, starting with its name; and whether a hook point has a hook."""
    state = vars(part)
    if name[:5] == "hook_":
        if type(part) is HookPoint and "forward" not in state:
            return None, has_hooks(part, inside=False)
        return f" is a {type(part).__name__} of your own", True
    kinds = _KINDS.get(name)
    if kinds is None:
        return None, False
    if (reason := _changed(part, kinds, cfg)) is not None:
        return reason, True
    if type(part) in _RUN_AS_THEY_ARE:
        return None, has_hooks(part)
    any_heard = False
    for child, inside in state["_modules"].items():
        if inside is not None:
            reason, heard = _look(child, inside, cfg)
            if reason is not None:
                return f".{child}{reason}", True
            any_heard |= heard
    return None, any_heard


def _changed(module: Any, kinds: frozenset[type], cfg: Any) -> str | None:
    """Why this module, apart from its children, is not as TransformerLens made it, starting with its name."""
    kind: type = type(module)
    state = vars(module)
    if kind not in kinds:
        return f" is a {kind.__name__} of your own"
    if not (methods := _methods(kind)).keys().isdisjoint(state):
        return f".{next(name for name in state if name in methods)} is a function of your own"
    if state.get("cfg", cfg) is not cfg:
        return " has a configuration of its own"
    if has_hooks(module, inside=False):
        return " has a PyTorch hook"
    act = state.get("act_fn") or state["_modules"].get("act_fn")
    trained = type(act) is XIELU and cfg.act_fn == "xielu"
    if act is not None and not trained and act is not SUPPORTED_ACTIVATIONS.get(cfg.act_fn):
        return f".act_fn is not the {cfg.act_fn} of the model's configuration"
    return None


def _place(block: Any) -> str:
    """A block's name in the model, whatever order the blocks run in."""
    name = getattr(block._modules.get("hook_resid_pre"), "name", None)
    return name.removesuffix(".hook_resid_pre") if isinstance(name, str) else "a block"


@functools.cache
def _methods(kind: type) -> dict[str, type]:
    """A class's methods and properties, each with its defining class, without PyTorch's.

    An instance has no attribute of such a name unless somebody put it there.
    """
    if kind in (HookedTransformer, HookPoint):
        return dict.fromkeys(_PASS if kind is HookedTransformer else ("forward",), kind)
    bases = [base for base in kind.__mro__ if base.__module__.startswith("transformer_lens")] or [kind]
    return {
        name: base
        for base in reversed(bases)
        for name, value in vars(base).items()
        if (callable(value) or isinstance(value, property | staticmethod)) and not name.startswith("__")
    }


def _as_written(kind: type, name: str) -> Any:
    """TransformerLens's own method; if it was replaced before this import, an object that equals nothing."""
    value, base = getattr(kind, name), _methods(kind)[name]
    function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    code = getattr(function, "__code__", None)
    return value if code is None or code.co_filename == sys.modules[base.__module__].__file__ else object()


def _snapshot() -> list[tuple[type, Callable[[Any], tuple[Any, ...]], tuple[str, ...], tuple[Any, ...]]]:
    """Per class: a getter of its methods, their names, and TransformerLens's own methods."""
    kinds = {HookedTransformer, HookPoint, *_BLOCK, *(kind for kinds in _KINDS.values() for kind in kinds)}
    methods = {kind: tuple(_methods(kind)) for kind in kinds - {*_RUN_AS_THEY_ARE}}
    return [  # "forward" twice: attrgetter gives a tuple for two names and more
        (kind, attrgetter(*names, "forward"), names, tuple(_as_written(kind, name) for name in names))
        for kind, names in methods.items()
    ]


def patches() -> list[tuple[str, Any]]:
    """Every method of a TransformerLens class that was replaced for all modules: its name and its replacement."""
    return [
        (f"{kind.__name__}.{name}", now)
        for kind, read, names, expected in _SNAPSHOT
        for name, now, then in zip(names, read(kind), expected, strict=False)
        if now is not then
    ]


def patched_class() -> str | None:
    """The first of `patches` in words; None if there is none."""
    for kind, read, _, expected in _SNAPSHOT:
        if read(kind)[:-1] != expected:
            return f"{patches()[0][0]} is a function of your own"
    return None


_SNAPSHOT = _snapshot()
