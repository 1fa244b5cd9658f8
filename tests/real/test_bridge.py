"""The real model as a TransformerBridge beside the HookedTransformer: the same tables; what either is, other tests ask.

With TransformerLens 4 the Bridge is the model of all tests here.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.models import hooked, runs_by_block, smollm2
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.stages.norms import NormsStudy
from tests import tiny
from tests.real.conftest import Real
from tests.tables import assert_same_tables

pytestmark = [
    pytest.mark.xdist_group("real"),
    pytest.mark.skipif(not tiny.HOOKED, reason="this TransformerLens has Bridges alone"),
]


@pytest.fixture(scope="module")
def bridge(real: Real) -> Any:
    return mi.load_model(smollm2.NAME, backend="bridge")


STUDIES = {
    "information-flow": lambda model, real: mi.information_flow(model, real.prompts[:2], untrained=0),
    "isolation": lambda model, real: mi.isolation(model, real.prompts[:2], n_layers=[5]),
    "lesions": lambda model, real: Lesions(kinds=("drop",), positions=("all",), untrained=0).run(
        model, real.corpus[1:]
    ),
    "norms": lambda model, real: NormsStudy().run(model, real.corpus),
}


GRADIENTS = {"information-flow": 3.0}
"""Gradients through 30 layers round more than activations: 1.8 times what is allowed was measured."""
RATIOS = 8.0
"""Enrichments divide one small number by another: 4.7 times was measured."""
ISOLATED = 2.0
"""Isolated tokens grow to the norm of a sink, and round more: 1.7 times what is allowed was measured after the softmax, and
1.45 times before it on another processor."""


@pytest.mark.parametrize("study", STUDIES)
def test_tables_are_those_of_the_hooked_transformer(real: Real, bridge: Any, study: str) -> None:
    ours, theirs = (STUDIES[study](model, real).table for model in (bridge, real.model))
    if study == "isolation":
        isolated = theirs["isolated"] != "nothing"
        assert isolated.any()
        assert_same_tables(ours[isolated], theirs[isolated], ISOLATED)
        ours, theirs = ours[~isolated], theirs[~isolated]
    ratios = [name for name in ours if name.startswith(("reading_", "gathering_"))]
    assert_same_tables(ours[ratios], theirs[ratios], RATIOS)
    assert_same_tables(ours.drop(columns=ratios), theirs.drop(columns=ratios), GRADIENTS.get(study, 1.0))


def test_it_runs_by_block_in_float64_too(bridge: Any) -> None:
    """Hugging Face's norms and softmax stay float32 there, so that 30 layers differ by more than float64 rounds."""
    assert runs_by_block(hooked(copy.deepcopy(bridge).double()))


def test_logits_are_the_originals_in_silence_and_listened_to(real: Real, bridge: Any) -> None:
    net, tokens = hooked(bridge), torch.tensor(real.texts[1])[None]
    with torch.no_grad():
        expected = real.hf(tokens).logits.log_softmax(-1)
        for names in ([], sorted(net.hook_names())):
            with net.hooks([(name, lambda value, hook: None) for name in names]):
                found = net.read(net.forward(tokens)).log_softmax(-1)
            assert (found - expected).abs().max() < 2e-4
