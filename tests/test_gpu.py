"""What a GPU would have to do, seen without one: it is waited for once a batch, never once a layer."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import mechicl
from mechicl.corpora import TokenCorpus
from mechicl.engines.compression import compress
from mechicl.engines.wavefront import lesion_sweep
from mechicl.hooks import run
from mechicl.limits import free_bytes
from mechicl.metrics import cka_matrix, precision
from mechicl.metrics.confusion import predicted_confusion, scaled_keys
from mechicl.models import attention, hooked
from mechicl.patches import CutWords, Drop, FixNeurons, IsolateLabels, IsolateRandom, ReweightAnchors
from mechicl.probes import (
    LabelAttention,
    LastResidual,
    LensMap,
    LensTokens,
    LocalAttention,
    LossAt,
    Norms,
    SaliencyFlow,
    SaliencyMap,
    SubJoiner,
    TopTokens,
    WordAttention,
)
from mechicl.probes.last_position import LastNeurons, LastPrediction
from mechicl.probes.target_query import TargetQuery
from tests import tiny
from tests.device_stand_in import Asked, moved
from tests.random_prompts import random_prompts


@functools.cache
def deep(family: str, n_layers: int) -> Any:
    """A model of a family with so many layers, on the stand-in for a GPU."""
    cfg = copy.deepcopy(tiny.model(family).cfg)
    cfg.n_layers = n_layers
    if cfg.attn_types:
        cfg.attn_types = [cfg.attn_types[i % 2] for i in range(n_layers)]
    return moved(HookedTransformer(cfg))


def text() -> TokenCorpus:
    """Two sequences in which words have one, two and three tokens."""
    tokens = tiny.tokens(2, 18)
    words = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 10, 11]).expand(2, -1)
    return TokenCorpus(tokens, torch.tensor([18, 18]), torch.zeros_like(tokens), words, None, False)


def both_sets(words: torch.Tensor) -> torch.Tensor:
    return words >= 0


PROBES = (
    LabelAttention(), LabelAttention("norm"), LastResidual(), LocalAttention(), Norms(), SaliencyFlow(), TopTokens(),
    TargetQuery(), LastNeurons(((0, 3), (1, 2), (0, 1))), LastPrediction(),
)  # fmt: skip
TEXT_PROBES = (Norms(), LocalAttention(), LastResidual(), WordAttention(), SubJoiner(), LossAt(both_sets))


def everywhere(net: Any, kind: type, **more: Any) -> Any:
    return kind(layers=range(hooked(net).sizes.n_layers), **more)


PATCHES: dict[str, Callable[[Any], Any]] = {
    "isolated labels": lambda model: everywhere(model, IsolateLabels),
    "isolated labels, zeroed": lambda model: everywhere(model, IsolateLabels, mode="postsoftmax_zero"),
    "isolated random tokens": lambda model: everywhere(model, IsolateRandom),
    "fixed neurons": lambda model: FixNeurons(tuple((i, 1) for i in range(model.cfg.n_layers))),
    "re-weighted": lambda model: ReweightAnchors(torch.zeros(1, 1, 2, device="meta")),
}


def asked_for(call: Callable[[Any], object], family: str = "gpt2", layers: int = 3) -> Counter[str]:
    model = deep(family, layers)
    with Asked() as asked:
        call(model)
    return asked.waits + asked.indices


def prompts() -> Any:
    return random_prompts(3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)
def test_a_probe_of_prompts_waits_as_often_in_a_deep_model_as_in_a_shallow_one(family: str, probe: Any) -> None:
    def call(model: Any) -> object:
        return run(model, prompts(), [probe], progress=None)

    shallow, deeper = asked_for(call, family, 2), asked_for(call, family, 4)
    assert shallow == deeper
    assert shallow["cpu"] <= 2 + bool(probe.terms), "one transfer of the label logits, the reading, and its counts"


@pytest.mark.parametrize("probe", TEXT_PROBES, ids=lambda probe: type(probe).__name__)
def test_a_probe_of_text_waits_as_often_in_a_deep_model_as_in_a_shallow_one(probe: Any) -> None:
    def call(model: Any) -> object:
        return run(model, text(), [probe], progress=None)

    assert asked_for(call, layers=2) == asked_for(call, layers=4)


def test_a_probe_that_reads_every_layer_on_the_host_is_found() -> None:
    """The control: a transfer inside the hook is one more for every layer."""

    class InMidPass(Norms):
        def watch(self, model: Any, batch: Any) -> Any:
            watch = super().watch(model, batch)
            hooks = [(name, lambda value, hook, fn=fn: fn(value.cpu().to("meta"), hook)) for name, fn in watch.hooks]
            return replace(watch, hooks=hooks)

    def call(model: Any) -> object:
        return run(model, text(), [InMidPass()], progress=None)

    assert (
        asked_for(call, layers=4)["cpu"] - asked_for(call, layers=2)["cpu"] == 2 * 4
    )  # four hooks in each of two more layers


@pytest.mark.parametrize("make", PATCHES.values(), ids=PATCHES)
def test_a_patch_waits_as_often_in_a_deep_model_as_in_a_shallow_one(make: Callable[[Any], Any]) -> None:
    def call(model: Any) -> object:
        return run(model, prompts(), patches=[make(model)], progress=None)

    assert asked_for(call, layers=2) == asked_for(call, layers=4)


def test_cut_words_wait_as_often_in_a_deep_model_as_in_a_shallow_one() -> None:
    def call(model: Any) -> object:
        return run(model, text(), patches=[everywhere(model, CutWords)], progress=None)

    assert asked_for(call, layers=2) == asked_for(call, layers=4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_queries_on_a_kept_context_wait_as_often_in_a_deep_model(family: str) -> None:
    def call(model: Any) -> object:
        some = prompts()
        return compress(model, some[0], kept="label").ask(model, some, progress=None)

    assert asked_for(call, family, 2) == asked_for(call, family, 4)


def test_a_sweep_of_drops_waits_per_chunk_of_tokens_and_not_per_lesion() -> None:
    def call(lesions: Sequence[Any]) -> Counter[str]:
        return asked_for(lambda model: lesion_sweep(model, tiny.tokens(1, 8).to("meta"), lesions, top_k=0), layers=4)

    assert call([Drop(0)]) == call([Drop(i) for i in range(4)])


def test_no_reading_needs_float64_of_the_device() -> None:
    with Asked() as asked:
        for probe in (*PROBES, mechicl.probes.LogitLens(), LensTokens((1, 2)), LensMap((1,)), SaliencyMap((0, 1))):
            run(deep("gpt2", 2), prompts(), [probe], progress=None)
        for probe in (*TEXT_PROBES, mechicl.probes.LogitLens()):
            run(deep("gpt2", 2), text(), [probe], progress=None)
        lesion_sweep(deep("gpt2", 2), tiny.tokens(1, 8).to("meta"), [Drop(0)])
    assert not asked.wide
    with Asked() as asked:
        torch.zeros(2, device="meta").double()
    assert asked.wide  # the control


def test_metrics_leave_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", ("mps", "meta"))
    values = torch.rand(3, 12, 5, device="meta")
    with Asked() as asked:
        precision.in_float64(values)
        for call in (lambda: cka_matrix(values), lambda: scaled_keys(values[0], values[1, :4], 3)):
            call()
        with pytest.raises(mechicl.InputError, match="ll anchor keys are equal"):  # the stand-in's copies are zeros
            predicted_confusion(values[0])
    assert not asked.wide
    assert asked.waits["cpu"]


def test_memory_that_pytorch_holds_in_its_cache_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda of: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda of: 300)
    assert free_bytes(device) == free_bytes("cuda:0") == 500


def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways that a GPU takes, on the CPU."""
    cuda = SimpleNamespace(type="cuda")
    for way in (attention.repeats_keys, attention.rows_worth_a_copy):
        monkeypatch.setattr(attention, way.__name__, lambda device, *more, way=way: way(cuda, *more))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
@pytest.mark.parametrize("length", [7, 300])
def test_the_ways_of_a_gpu_give_the_cpus_numbers(family: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, tokens = hooked(tiny.model(family)), tiny.tokens(2, length)
    with torch.no_grad():
        expected = net.forward(tokens)
        on_cuda(monkeypatch)
        got = net.forward(tokens)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_positions_are_checked_again_once_they_were_edited() -> None:
    net = hooked(tiny.model("llama"))
    resid, positions = torch.randn(1, 4, tiny.D_MODEL), torch.arange(4)
    first = net.block(0, resid, positions)[0]
    assert torch.equal(net.block(0, resid, positions)[0], first)
    positions += 10**6
    with pytest.raises(mechicl.InputError, match="leave the context"):
        net.block(0, resid, positions)
    with torch.inference_mode():
        beyond = torch.arange(4)
        net.block(0, resid, beyond)
        beyond += 10**6
        with pytest.raises(mechicl.InputError, match="leave the context"):
            net.block(0, resid, beyond)
