"""Exact activation patching: copy activations at some positions of one prompt into another, many times over.

A *base* prompt gets activations of a *source* prompt of the same length. By causality a transplant changes nothing in
the layers below and nothing before its first position. So lower layers run once, transplants that begin in the same
layer are rows of one pass, and a change inside the demonstrations is run once for all queries that follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.doors import door
from mechicl.engines.prefix import shared_demonstrations
from mechicl.errors import InputError, NumericalError, check_count
from mechicl.hooks import Hook
from mechicl.hooks.sequence import check_sequence
from mechicl.models import Adapter, Blockwise, KeyValues, blockwise, check_same_tokenizer, frozen
from mechicl.prompts import Prompt, PromptSet

Site = Literal["resid_post", "attn_out", "mlp_out", "keys_values"]
SITES: tuple[Site, ...] = get_args(Site)
TARGET = -1
"""As a position, this means the target, a prompt's last token."""
_PARTS = {
    "resid_post": ("hook_resid_post",), "attn_out": ("hook_attn_out",), "mlp_out": ("hook_mlp_out",),
    "keys_values": ("attn.hook_k", "attn.hook_v"),
}  # fmt: skip
"""The hook points of each site; keys are those before rotation."""


class Transplant(NamedTuple):
    """What a base prompt gets from the source in one transplant."""

    site: Site
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    """Positions inside the demonstrations, or the target alone, (-1,). Without positions nothing is changed."""


@door
def transplanted(
    model: Any,
    base: Sequence[Prompt],
    source: Sequence[Prompt],
    transplants: Sequence[Transplant],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "prompt transplant class"]:
    """Logits of the label words of base prompts, under each single transplant from the corresponding source prompt.

    Args:
        model: a model that runs block by block.
        base: prompts with the same demonstrations.
        source: one prompt per base prompt, of the same length; these, too, share their demonstrations.
        transplants: in any order; `batch_size` of them share a pass.

    Raises:
        InputError: prompts differ in their demonstrations or lengths, a position is outside the demonstrations, the
            model lacks a layer or site, or the architecture cannot run block by block.
        NumericalError: a logit is NaN or infinite.
    """
    net = blockwise(model, "transplanted")
    check_count("batch_size", batch_size)
    _check(net, base, source, transplants)
    n, groups = base[0].query_start, _by_start(transplants, batch_size)
    logits = torch.empty(len(base), len(transplants), len(base[0].label_ids))
    scored = torch.tensor(base[0].label_ids, device=net.device)
    with torch.no_grad(), frozen(net):
        ours, theirs = (_read(net, one[0].tokens[:n], 0, ()) for one in (base, source))
        queries = [_read(net, prompt.tokens[n:], n, ours.keys_values) for prompt in base]
        for places in groups:
            chosen = [transplants[place] for place in places]
            if chosen[0].positions == (TARGET,):
                continue
            _, past = ours.with_rows(net, chosen, theirs.states)
            for row, query in enumerate(queries):
                final, _ = query.on(net, past, min(chosen[0].layers), len(chosen))
                logits[row, places] = net.lens(final[:, -1], scored).cpu()
        if any(one.positions == (TARGET,) for one in transplants):
            for row, query in enumerate(queries):
                given = _read(net, source[row].tokens[n:], n, theirs.keys_values)
                last = query.last()
                for places in groups:
                    chosen = [transplants[place] for place in places]
                    if chosen[0].positions == (TARGET,):
                        final, _ = last.with_rows(net, chosen, {name: x[-1:] for name, x in given.states.items()})
                        logits[row, places] = net.lens(final[:, -1], scored).cpu()
    if not logits.isfinite().all():
        raise NumericalError(f"A label logit of {net.name} is not finite under a transplant; try dtype='float32'.")
    return logits


def _by_start(transplants: Sequence[Transplant], at_once: int) -> list[list[int]]:
    """Batches of indices of transplants that begin in the same layer, inside the demonstrations or at the target."""
    alike: dict[tuple[int, bool], list[int]] = {}
    for place, one in enumerate(transplants):
        alike.setdefault((min(one.layers), one.positions == (TARGET,)), []).append(place)
    return [places[i : i + at_once] for places in alike.values() for i in range(0, len(places), at_once)]


@dataclass(frozen=True)
class _Read:
    """Consecutive tokens of one prompt that were read: the inputs and outputs of every layer."""

    resids: tuple[Float[Tensor, "1 pos d_model"], ...]
    """Before each layer."""
    positions: Int[Tensor, " pos"]
    keys_values: tuple[KeyValues, ...]
    """Their keys and values in every layer."""
    past: tuple[KeyValues, ...]
    """Those of the tokens before them, if any; one tuple serves many queries."""
    states: Mapping[str, Float[Tensor, "pos ..."]]
    """Activations by hook point, those of `_PARTS` in every layer."""

    def with_rows(
        self, net: Blockwise, transplants: Sequence[Transplant], states: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "row pos d_model"], dict[int, KeyValues]]:
        """Run once per transplant (all begin in the same layer): last residual; keys and values from that layer on."""
        with net.hooks(_writes(transplants, states)):
            return self.on(net, dict(enumerate(self.past)), min(transplants[0].layers), len(transplants))

    def on(
        self, net: Blockwise, past: Mapping[int, KeyValues], start: int, n_rows: int
    ) -> tuple[Float[Tensor, "row pos d_model"], dict[int, KeyValues]]:
        """Run from layer `start` on, on other keys and values: last residual, and these followed by the new ones."""
        resid, new = self.resids[start].expand(n_rows, -1, -1), {}
        for layer in range(start, net.sizes.n_layers):
            resid, kept = net.block(layer, resid, self.positions, past.get(layer))
            new[layer] = past[layer].then(kept) if layer in past else kept
        return resid, new

    def last(self) -> _Read:
        """The last token alone, on all tokens before it."""
        index = torch.arange(len(self.positions) - 1, device=self.positions.device)
        own = tuple(layer.select(index) for layer in self.keys_values)
        past = tuple(before.then(one) for before, one in zip(self.past, own, strict=True)) if self.past else own
        return _Read(tuple(x[:, -1:] for x in self.resids), self.positions[-1:], (), past, {})


def _read(net: Blockwise, tokens: Sequence[int], start: int, past: Sequence[KeyValues]) -> _Read:
    """Read tokens from position `start` on, after others whose keys and values are known."""
    states: dict[str, Tensor] = {}
    positions = torch.arange(start, start + len(tokens), device=net.device)
    resid, resids, keys_values = net.embed(torch.tensor([tokens], device=net.device), positions), [], []
    with net.hooks(keeping(net, states)):
        for layer in range(net.sizes.n_layers):
            resids.append(resid)
            resid, new = net.block(layer, resid, positions, past[layer] if past else None)
            keys_values.append(new)
    return _Read(tuple(resids), positions, tuple(keys_values), tuple(past), states)


def hook_points(net: Adapter, sites: Sequence[Site] = SITES) -> dict[str, tuple[Site, int]]:
    """Every hook point of these sites that the model has: its site and layer."""
    there = [site for site in sites if site != "mlp_out" or net.sizes.d_mlp]
    layers = range(net.sizes.n_layers)
    return {f"blocks.{layer}.{part}": (site, layer) for site in there for layer in layers for part in _PARTS[site]}


def keeping(net: Adapter, states: dict[str, Tensor]) -> list[Hook]:
    """Hooks that store the activations of a pass's only prompt at all of these points in `states`."""

    def keep(name: str) -> Callable[..., None]:
        def see(value: Tensor, hook: Any) -> None:
            states[name] = value[0].detach()

        return see

    return [(name, keep(name)) for name in hook_points(net)]


def _writes(transplants: Sequence[Transplant], states: Mapping[str, Tensor]) -> list[Hook]:
    """Hooks on a pass with one row per transplant."""
    where: dict[str, list[tuple[int, int]]] = {}
    for row, (site, layers, positions) in enumerate(transplants):
        for name in (f"blocks.{layer}.{part}" for layer in layers for part in _PARTS[site]):
            where.setdefault(name, []).extend((row, position) for position in positions)

    def write(name: str, pairs: Sequence[tuple[int, int]]) -> Callable[..., Tensor]:
        def change(value: Tensor, hook: Any) -> Tensor:
            rows, places = torch.tensor(pairs, device=value.device).T
            return value.index_put((rows, places), states[name][places].to(value))

        return change

    return [(name, write(name, pairs)) for name, pairs in where.items() if pairs]


def check_sites(net: Adapter, sites: Sequence[str]) -> None:
    if "mlp_out" in sites and not net.sizes.d_mlp:
        raise InputError(f"{net.name} has no MLPs; leave mlp_out out.")


def check_as_long(base: Prompt, source: Prompt) -> None:
    """Raise InputError for prompts whose positions do not correspond."""
    if (len(base), base.query_start) != (len(source), source.query_start):
        raise InputError(
            f"The base prompt has {len(base)} tokens and its query begins at {base.query_start}, the source "
            f"{len(source)} and {source.query_start}; give prompts whose positions correspond."
        )


def _check(net: Blockwise, base: Sequence[Prompt], source: Sequence[Prompt], asked: Sequence[Transplant]) -> None:
    if not base or len(base) != len(source) or not asked:
        raise InputError(f"{len(base)} base prompts meet {len(source)} sources; give one for each, and a transplant.")
    for prompts in (base, source):
        check_same_tokenizer(net, PromptSet(tuple(prompts)))
        if len(shared_demonstrations(PromptSet(tuple(prompts)))) > 1 or not prompts[0].query_start:
            raise InputError("Prompts patched in one call must share their demonstrations; patch each set on its own.")
    check_sequence(base[0].label_tokens, "A transplant")
    for one, other in zip(base, source, strict=True):
        check_as_long(one, other)
    places, layers = range(base[0].query_start), range(net.sizes.n_layers)
    for site, of_layers, positions in asked:
        inside = positions == (TARGET,) or all(place in places for place in positions)
        if site not in SITES or not of_layers or not all(layer in layers for layer in of_layers) or not inside:
            raise InputError(
                f"A transplant of {site} in layers {of_layers} at positions {positions} cannot be made: sites are "
                f"{', '.join(SITES)}, layers 0-{layers[-1]}, positions 0-{places[-1]} or the target alone."
            )
    check_sites(net, [site for site, *_ in asked])
