"""A model whose later blocks lie on another device: one that knows only shapes, and refuses to mix with this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mechicl.engines.compression import compress
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.models.loading import parse_device
from mechicl.models.spread import devices_from, places, spread
from mechicl.models.untrained import untrained
from mechicl.patches import Drop, IsolateLabels, ReweightAnchors, Swap
from mechicl.probes import LogitLens
from tests import tiny
from tests.device_stand_in import Asked, split
from tests.random_prompts import random_prompts
from tests.test_gpu import PATCHES, PROBES, TEXT_PROBES, text

FAMILIES = ("gpt2", "llama/bridge")


def calls(group: tuple[Any, ...], what: Any) -> dict[str, Callable[[Any], object]]:
    return {repr(one): lambda model, one=one: run(model, what, [one], progress=None) for one in group}


CALLS: dict[str, Callable[[Any], object]] = {
    **calls(TEXT_PROBES, text()),
    **calls((*PROBES, LogitLens()), random_prompts(3)),
    **{
        name: lambda model, make=make: run(model, random_prompts(3), patches=[make(model)], progress=None)
        for name, make in PATCHES.items()
        if name != "re-weighted"  # whose weights lie on the stand-in
    },
    "re-weighted": lambda model: run(
        model, random_prompts(3), patches=[ReweightAnchors(torch.zeros(3, tiny.N_HEADS, 2))], progress=None
    ),
    "isolated and swapped": lambda model: run(
        model, random_prompts(3), patches=[IsolateLabels((0, 2)), Swap(1)], progress=None
    ),
    "lesion sweep": lambda model: lesion_sweep(model, tiny.tokens(2, 8), [Drop(0), Drop(2), Swap(1)]),
    "compression": lambda model: compress(model, random_prompts(3)[0], kept="label").ask(
        model, random_prompts(3), progress=None
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_runs_on_a_model_that_is_spread_over_devices(family: str) -> None:
    model = split(tiny.model(family))
    with Asked():
        for name, call in CALLS.items():
            if "norm" not in name or not tiny.is_bridge(family):  # a Bridge gives no weight of a stand-in
                call(model)


def test_a_tensor_of_another_device_is_refused_by_the_stand_in() -> None:
    """The control: without the way home nothing would run."""
    model = split(tiny.model("gpt2"))
    with Asked(), pytest.raises(RuntimeError, match="device"):
        model.blocks[-1](model.embed(tiny.tokens(1, 4)))


def test_hooks_see_values_of_the_first_device_and_their_edits_go_back() -> None:
    net, seen = hooked(split(tiny.model("gpt2"))), []

    def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append(value.device.type)
        return value * 0

    with Asked(), torch.no_grad(), net.hooks([(f"blocks.{layer}.attn.hook_pattern", edit) for layer in range(3)]):
        assert net.forward(tiny.tokens(1, 4)).device.type == "cpu"
    assert seen == ["cpu"] * 3


def test_blocks_are_spread_evenly_from_the_first_device_on() -> None:
    assert [str(one) for one in devices_from(torch.device("cuda", 2), 3)] == ["cuda:2", "cuda:3", "cuda:4"]
    model = tiny.fresh("gpt2")
    expected = hooked(model).forward(tiny.tokens(1, 5))
    spread(model, devices_from(torch.device("cpu"), 1))
    assert torch.equal(hooked(model).forward(tiny.tokens(1, 5)), expected)
    with pytest.raises(InputError, match="3 GPUs, and there are 0"):
        parse_device("cuda:1", n_devices=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_goes_straight_to_its_device(family: str) -> None:
    """From the first device, which may be too small for all of them, these could not come back."""
    model, first = tiny.fresh(family), torch.device("meta")
    spread(model, [first, torch.device("cpu")])
    assert [one.type for one in places(model)] == ["meta", "meta", "cpu"]
    assert {str(tensor.device) for tensor in model.embed.parameters()} == {"meta"}
    assert model.cfg.device == "meta"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_twin_is_spread_like_its_model(family: str) -> None:
    model = split(tiny.model(family))
    twin = untrained(model, seed=0)
    assert places(twin) == places(model)
    assert {str(tensor.device) for tensor in twin.embed.parameters()} == {"cpu"}
