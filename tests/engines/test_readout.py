"""Measures taken tile by tile over the vocabulary are those of whole rows of logits."""

import pytest
import torch

from mechicl import metrics
from mechicl.engines import readout
from mechicl.engines.readout import read_out
from mechicl.models import hooked
from tests import tiny

N_TOKENS, N_STREAMS, K = 5, 4, 6


@pytest.fixture(params=[(8, 7), (8, 64), (8, 10_000)], ids=["7 tokens a tile", "64 tokens a tile", "one tile"])
def tile(request, monkeypatch):
    monkeypatch.setattr(readout, "_TILE", {"cpu": request.param})


def residuals(net, scale=1.0):
    """Streams that resemble the first, the last one exactly."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(N_TOKENS, 1, net.sizes.d_model, generator=generator)
    others = first + scale * torch.randn(N_TOKENS, N_STREAMS - 2, net.sizes.d_model, generator=generator)
    return torch.cat([first, others, first], 1)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("scale", [1e-2, 1.0])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_tiles_change_nothing(family, scale):
    model = tiny.fresh(family)
    with torch.no_grad():
        model.unembed.W_U.mul_(20)  # as peaked as a trained model, and as far from 0 as GPT-2's logits
        model.unembed.b_U.sub_(90)
    net = hooked(model)
    resid = residuals(net, scale)
    targets = torch.arange(N_TOKENS) * 3
    found = read_out(net, resid, targets, K)
    logits = net.lens(resid).detach().double()
    base = logits[:, :1].expand_as(logits)
    close = {"atol": 2e-5, "rtol": 1e-5}
    torch.testing.assert_close(found["kl"].double(), metrics.kl_divergence(base, logits), **close)
    torch.testing.assert_close(found["entropy"].double(), metrics.entropy(logits, unit="bits"), **close)
    loss = metrics.cross_entropy(logits, targets[:, None].expand(-1, N_STREAMS))
    torch.testing.assert_close(found["loss"].double(), loss, **close)
    assert torch.equal(found["top_token"], logits.argmax(-1))
    assert torch.equal(found["top_k_overlap"], metrics.top_k_overlap(base, logits, K))
    assert found["kl"][:, -1].max() < 1e-6


@pytest.mark.usefixtures("tile")
def test_of_equal_logits_the_lower_id_is_taken():
    model = tiny.fresh("gpt2")
    with torch.no_grad():
        model.unembed.W_U.zero_()
        model.unembed.b_U.zero_()
        model.unembed.b_U[[3, 12, 20, 40]] = 1.0
    net = hooked(model)
    found = read_out(net, residuals(net), torch.zeros(N_TOKENS, dtype=torch.long), 2)
    assert (found["top_token"] == 3).all()
    assert (found["top_k_overlap"] == 1).all()
