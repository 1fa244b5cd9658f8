"""Measures taken tile by tile over the vocabulary are those of whole rows of logits."""

import pytest
import torch

from mechicl import metrics
from mechicl.metrics import readout
from mechicl.metrics.readout import read_out
from mechicl.models import hooked
from tests import tiny

N_TOKENS, N_STREAMS, K = 5, 4, 6
MEASURES = (
    "entropy", "clamped_entropy", "kl", "kl_reverse", "js_divergence", "loss", "top_token", "agreement", "reciprocal_rank", "top_k_overlap",
)  # fmt: skip
ATOL = 2e-6
"""In nats or bits: what float32 leaves of predictions that are nearly equal."""


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
    tiles, logits = recorded(net.lens_tiles)
    found = read_out(tiles, resid.unbind(1), targets, MEASURES, K, d_vocab=net.sizes.d_vocab)
    logits = logits().view(N_TOKENS, N_STREAMS, -1).double()  # the very same: a product's rounding is not judged here
    torch.testing.assert_close(logits, net.lens(resid).detach().double(), atol=1e-4, rtol=1e-5)
    base = logits[:, :1].expand_as(logits)
    base_of_all = base.argmax(-1)
    raised = logits.softmax(-1).clamp(min=1e-9)
    assert (raised == 1e-9).any() == (family != "gemma2"), "whose soft cap leaves no token so improbable"
    plain = {
        "entropy": metrics.entropy(logits, unit="bits"),
        "clamped_entropy": -(raised * raised.log2()).sum(-1),
        "kl": metrics.kl_divergence(base, logits),
        "kl_reverse": metrics.kl_divergence(logits, base),
        "js_divergence": metrics.js_divergence(base, logits),
        "loss": metrics.cross_entropy(logits, targets[:, None].expand(-1, N_STREAMS)),
    }
    for name, expected in plain.items():
        torch.testing.assert_close(
            found[name].double(), expected, atol=ATOL, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert torch.equal(found["top_token"], logits.argmax(-1))
    assert torch.equal(found["agreement"], (logits.argmax(-1) == base_of_all).float())
    assert torch.equal(found["reciprocal_rank"], 1 / metrics.token_rank(logits, base_of_all).float())
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
    targets = torch.zeros(N_TOKENS, dtype=torch.long)
    found = read_out(net.lens_tiles, residuals(net).unbind(1), targets, MEASURES, 2, d_vocab=net.sizes.d_vocab)
    assert (found["top_token"] == 3).all()
    assert (found["top_k_overlap"] == 1).all()
    assert (found["reciprocal_rank"] == 1).all()


@pytest.mark.usefixtures("tile")
def test_of_equal_logits_the_lower_id_ranks_first():
    base, other = torch.zeros(2, 40), torch.zeros(2, 40)
    base[0, 0] = base[1, 30] = 1.0
    found = read_out(
        rows_of(base, other), ids(2), torch.zeros(2, dtype=torch.long), MEASURES, 2, d_vocab=base.shape[-1]
    )
    assert found["reciprocal_rank"][:, 1].tolist() == pytest.approx([1, 1 / 31])


@pytest.mark.usefixtures("tile")
def test_a_token_that_both_exclude_changes_nothing_and_one_alone_makes_kl_infinite():
    logits = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    logits[..., 5:20] = -torch.inf
    logits[1, :, 30] = -torch.inf
    base, other = logits
    found = read_out(rows_of(base, other), ids(3), torch.tensor([0, 6, 30]), MEASURES, K, d_vocab=base.shape[-1])
    both = torch.stack([base, other], 1).double()
    assert found["kl"][:, 1].isinf().all()
    for name, first, second in (("kl", base, base), ("kl_reverse", other, base), ("js_divergence", base, other)):
        expected = getattr(metrics, name.removesuffix("_reverse").replace("kl", "kl_divergence"))(
            first.double(), second.double()
        )
        torch.testing.assert_close(found[name][:, 0 if name == "kl" else 1].double(), expected, atol=ATOL, rtol=1e-5)
    torch.testing.assert_close(found["entropy"].double(), metrics.entropy(both, unit="bits"), atol=ATOL, rtol=1e-5)
    losses = metrics.cross_entropy(both, torch.tensor([0, 6, 30])[:, None].expand(-1, 2))
    torch.testing.assert_close(found["loss"].double(), losses, atol=ATOL, rtol=1e-5)


def test_only_what_is_asked_for_is_measured():
    base = torch.randn(3, 40)
    found = read_out(
        rows_of(base, base), ids(3), torch.zeros(3, dtype=torch.long), ("kl", "top_k_overlap"), d_vocab=base.shape[-1]
    )
    assert set(found) == {"kl", "top_k_overlap"}
    assert found["top_k_overlap"].isnan().all()  # of no tokens


def recorded(tiles):
    """The reader, and what gives the whole rows that it has read."""
    parts = {}

    def recording(rows, width):
        for first, tile in tiles(rows, width):
            parts.setdefault(first, []).append(tile.clone())
            yield first, tile

    return recording, lambda: torch.cat([torch.cat(parts[first]) for first in sorted(parts)], 1)


def ids(n):
    """Residuals that only number their rows, of two streams."""
    return [torch.arange(n).float()[:, None], torch.arange(n).float()[:, None]]


def rows_of(*streams):
    """A reader that looks the rows up."""
    rows = torch.stack(streams, 1)

    def tiles(resid, width):
        n_streams, numbers = len(streams), resid[:, 0].long()
        logits = rows[numbers, torch.arange(len(resid)) % n_streams]
        yield from ((first, logits[:, first : first + width]) for first in range(0, rows.shape[-1], width))

    return tiles


def test_what_is_kept_for_a_second_look_is_bounded(monkeypatch):
    """Fewer tokens at a time where the vocabulary is large; the measures are the same."""
    net = hooked(tiny.model("gpt2"))
    targets = torch.arange(N_TOKENS)
    whole = read_out(net.lens_tiles, residuals(net).unbind(1), targets, MEASURES, 2, d_vocab=net.sizes.d_vocab)
    monkeypatch.setattr(readout, "_KEPT_BYTES", 4 * N_STREAMS * net.sizes.d_vocab)
    assert readout.kept_bytes(N_STREAMS, net.sizes.d_vocab, net.device) == readout._KEPT_BYTES
    one_by_one = read_out(net.lens_tiles, residuals(net).unbind(1), targets, MEASURES, 2, d_vocab=net.sizes.d_vocab)
    for name, values in whole.items():
        torch.testing.assert_close(one_by_one[name], values, atol=ATOL, rtol=1e-5)
