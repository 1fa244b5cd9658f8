"""Untrained twins: another draw of the same architecture, and the model itself left alone."""

from __future__ import annotations

import pytest
import torch

import mechicl as mi
from mechicl.errors import InputError
from mechicl.models import has_twin, hooked, provenance, untrained, untrained_twin
from mechicl.models.provenance import weight_digest
from tests import tiny
from tests.models.test_adapter import Plain, Wrapped


@pytest.mark.parametrize("family", [*tiny.families, "gpt2/bridge", "llama/bridge"])
def test_a_twin_has_the_same_shape_and_other_weights(family: str) -> None:
    model = tiny.model(family)
    before, state = weight_digest(model), torch.random.get_rng_state()
    twin, again, other = untrained(model, 0), untrained(model, 0), untrained(model, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert weight_digest(model) == before
    assert len({before, weight_digest(twin), weight_digest(other)}) == 3
    assert weight_digest(twin) == weight_digest(again)
    sizes = [{name: p.shape for name, p in one.named_parameters()} for one in (model, twin)]
    assert sizes[0] == sizes[1]
    logits = twin(tiny.tokens())
    assert logits.isfinite().all()
    assert not torch.allclose(logits, other(tiny.tokens()))
    assert twin.tokenizer is model.tokenizer
    assert provenance(twin)["source"] == f"{hooked(model).name}, untrained, seed 0"


def test_folding_leaves_nothing_to_fold() -> None:
    folded = tiny.fresh("gpt2", "fold")
    twin = untrained(folded, 3)
    assert twin.cfg.normalization_type == "LNPre"
    torch.testing.assert_close(twin(tiny.tokens()), untrained(tiny.model("gpt2"), 3)(tiny.tokens()))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt2/bridge", "llama/bridge"])
@pytest.mark.parametrize("processing", ["none", "fold"])
def test_a_twin_is_tied_if_its_model_is(family: str, processing: str) -> None:
    """Here gpt2 is tied, and llama is not."""
    twin = untrained(tiny.fresh(family, processing), 0)
    tied = torch.equal(twin.W_E, twin.W_U.T)
    assert tied == family.startswith("gpt2")


def test_a_class_of_the_users_own_has_none() -> None:
    for model in (Plain(), Wrapped(tiny.model("gpt2"))):
        assert not has_twin(model)
        with pytest.raises(InputError, match="has no untrained twin"):
            untrained(model, 0)
    assert has_twin(mi.load_model("tiny-icl"))


@pytest.mark.parametrize("family", ["gpt2", "gpt2/bridge"])
def test_a_borrowed_twin_is_freed(family: str) -> None:
    with untrained_twin(tiny.model(family), 0) as twin:
        kept = twin
        assert kept(tiny.tokens()).isfinite().all()
    assert sum(tensor.numel() for tensor in (*kept.parameters(), *kept.buffers())) == 0
