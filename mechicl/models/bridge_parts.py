"""The modules of a Bridge's block, and which of TransformerLens's wrappers can be skipped for lack of hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mechicl.models.silent import has_own_hooks, installed_by_library


@dataclass(frozen=True)
class _Wrapper:
    holder: nn.Module
    """The Hugging Face module that calls it."""
    name: str
    module: Any
    """TransformerLens's wrapper."""
    split: tuple[tuple[Any, Any], ...] = ()
    """Modules that TransformerLens split off Hugging Face's joint modules, and the joint ones."""

    @property
    def stands(self) -> bool:
        """Whether it is where TransformerLens put it, with TransformerLens's own code."""
        module = self.module
        written = type(module).forward.__module__.startswith("transformer_lens.")
        return self.holder._modules.get(self.name) is module and "forward" not in vars(module) and written

    @property
    def plain(self) -> bool:
        """Whether Hugging Face's module has the same weights: parts split off a joint one share its memory."""
        return all(
            weight.untyped_storage().data_ptr() == getattr(joint, name).untyped_storage().data_ptr()
            for part, joint in self.split
            for name, weight in part.named_parameters()
        )


@dataclass
class BlockParts:
    """A block, its hook points and its wrappers."""

    block: Any
    points: list[Any] = field(default_factory=list)
    """Hook points between the residual before the block and the one after it."""
    wrappers: list[_Wrapper] = field(default_factory=list)

    @classmethod
    def of(cls, block: Any) -> BlockParts:
        """Inspect a block of a `TransformerBridge`."""
        parts = cls(block)
        parts._look(block.original_component)
        ends = (block.hook_in, block.hook_out)
        parts.points = [part for part in block.modules() if hasattr(part, "fwd_hooks") and part not in ends]
        return parts

    def _look(self, module: nn.Module) -> None:
        for name, part in module._modules.items():
            if part is None or hasattr(part, "fwd_hooks"):
                continue
            original = getattr(part, "original_component", None) if hasattr(part, "hook_in") else None
            if original is None:
                self._look(part)
                continue
            self.wrappers.append(_Wrapper(module, name, part, tuple(_split(part, original))))
            self._look(original)

    @property
    def heard(self) -> bool:
        """Whether the block has a hook, or a user-defined module or function."""
        library = installed_by_library(self.block)
        return (
            any(has_own_hooks(point, library) for point in self.points)
            or any(has_own_hooks(part.module, library) for part in self.wrappers)
            or has_own_hooks(self.block, library)
            or not self.stands
        )

    @property
    def stands(self) -> bool:
        """Whether TransformerLens's wrappers are all in their places."""
        written = type(self.block).forward.__module__.startswith("transformer_lens.")
        return written and "forward" not in vars(self.block) and all(part.stands for part in self.wrappers)

    @property
    def attention_is_plain(self) -> bool:
        """Whether Hugging Face's attention module has the weights that TransformerLens's wrapper computes with."""
        return all(part.plain for part in self.wrappers if part.module is self.block.attn)

    @contextmanager
    def unwrapped(self) -> Iterator[None]:
        """A context that runs Hugging Face's own modules if they have the weights of TransformerLens's wrappers."""
        stale = [part.module.original_component for part in self.wrappers if not part.plain]
        inside = {id(module) for original in stale for module in original.modules()}
        removed = [part for part in self.wrappers if part.plain and id(part.holder) not in inside]
        try:
            for part in removed:
                part.holder._modules[part.name] = part.module.original_component
            yield
        finally:
            for part in removed:
                part.holder._modules[part.name] = part.module


def joint_modules(block: Any) -> list[nn.Module]:
    """Hugging Face's joint modules in a block, from which TransformerLens split off those that it computes with."""
    return [joint for wrapper in BlockParts.of(block).wrappers for _, joint in wrapper.split]


def _split(wrapper: Any, original: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Parts of a wrapper that are split off one of Hugging Face's joint modules, each with the joint one."""
    own = {id(module) for module in original.modules()}
    children = {name: getattr(part, "original_component", None) for name, part in wrapper.named_children()}
    cut = [part for part in children.values() if part is not None and id(part) not in own]
    joint = [module for module in original.children() if isinstance(getattr(module, "weight", None), nn.Parameter)]
    for part in cut:
        yield part, max(joint, key=_size)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
