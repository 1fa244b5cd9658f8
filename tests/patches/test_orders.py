"""Blocks in another order as a patch among others: equal to the model that is really built so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mechicl.engines.context import read_context
from mechicl.engines.prefix import run_shared
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.patches import Drop, IsolateLabels, Repeat, Replace, Swap
from mechicl.probes import LabelAttention, LogitLens, SaliencyFlow
from tests import tiny
from tests.contract.catalogue import prompts as sharing
from tests.random_prompts import random_prompts


def swapped(family: str, one: int, other: int) -> Any:
    """A model in which the weights of two layers have changed places for good."""
    model, names = tiny.fresh(family), {one: other, other: one}
    weights = {}
    for name, weight in model.state_dict().items():
        _, layer, *rest = name.split(".")
        moved = name.startswith("blocks.") and int(layer) in names
        weights[".".join(["blocks", str(names[int(layer)]), *rest]) if moved else name] = weight.clone()
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_a_swap_with_an_isolation_and_probes_of_both_kinds(family: str) -> None:
    """Layers are named as in the model as it was; readings of a layer are its own, wherever it runs."""
    model, prompts = tiny.model(family), random_prompts(4)
    probes, order = [LabelAttention(), SaliencyFlow()], torch.tensor([0, 2, 1])
    ours = run(model, prompts, probes, [Swap(1), IsolateLabels([2])], batch_size=3)
    theirs = run(swapped(family, 1, 2), prompts, probes, [IsolateLabels([1])])
    torch.testing.assert_close(ours.label_logits, theirs.label_logits, rtol=1e-4, atol=1e-5)
    for probe in probes:
        moved = values(theirs[probe]).index_select(1, order)
        torch.testing.assert_close(values(ours[probe]), moved, rtol=1e-4, atol=1e-5)
    alone, last = (run(model, prompts, patches=[Swap(1), *more]).label_logits for more in ([], [IsolateLabels([1])]))
    assert (ours.label_logits - alone).abs().max() > 1e-4
    torch.testing.assert_close(last, alone, rtol=1e-4, atol=1e-5)  # what runs last isolates nothing that q sees


def values(reading: Any) -> torch.Tensor:
    return reading if isinstance(reading, torch.Tensor) else next(iter(reading.quantities.values()))


def test_what_cannot_be_said_is_refused_in_one_sentence() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(2)
    for probes, patches, words in (
        ([LabelAttention()], [Repeat(1, 1)], r"LabelAttention acts on block 1, which Repeat.* runs 2 times"),
        ([LabelAttention()], [Replace(0, 2)], "block 0, which Replace.* leaves out"),
        ([LogitLens()], [Swap(1)], "residual after block 2, which Swap.* does not run last"),
        ([], [Drop(0), Replace(0, 2)], "Drop.* block 0, which Replace.* leaves out"),
        ([], [Swap(0), Swap(1)], "both set the order of blocks"),
    ):
        with pytest.raises(InputError, match=words):
            run(model, prompts, probes, patches)
    with pytest.raises(InputError, match=r"use run.* or `with patch.on"):
        Swap(0).hooks(model, prompts.batch())
    assert run(model, prompts, [LogitLens()], [Swap(0)]).label_logits.isfinite().all()


def test_an_edit_acts_at_every_run_of_a_repeated_block() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(2)
    ours, alone = (
        run(model, prompts, patches=patches).label_logits for patches in ([Repeat(1, 1), Drop(1)], [Drop(1)])
    )
    torch.testing.assert_close(ours, alone)


def test_shared_demonstrations_fall_back_and_contexts_refuse() -> None:
    model, prompts = tiny.model("llama"), sharing()
    ours, plain = (way(model, prompts, [], [Swap(1)]).label_logits for way in (run_shared, run))
    assert torch.equal(ours, plain)
    with pytest.raises(InputError, match="use run"):
        read_context(model, prompts[0], [Swap(1)])


def test_a_model_that_runs_whole_says_so() -> None:
    net = hooked(tiny.model("gpt2"))

    class Whole:
        """An adapter of its own, with nothing but what `Adapter` asks."""

        def __getattr__(self, name: str) -> Any:
            if name == "reordered":
                raise AttributeError(name)
            return getattr(net, name)

    for name in (
        "raw",
        "name",
        "device",
        "dtype",
        "sizes",
        "tokenizer",
        "hook_names",
        "hooks",
        "forward",
        "read",
        "lens",
    ):
        setattr(Whole, name, property(lambda self, name=name: getattr(net, name)))
    with pytest.raises(InputError, match=r"Swap needs a model .* runs only whole forward passes"):
        run(Whole(), random_prompts(1), patches=[Swap(0)])
    assert run(Whole(), random_prompts(1), patches=[Drop(0)]).label_logits.isfinite().all()
