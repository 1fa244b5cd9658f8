"""The lens at the last point is the model; the authors' lens is not."""

import pytest
import torch

from mechicl import metrics
from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.metrics import readout
from mechicl.models import hooked
from mechicl.probes import LogitLens, TunedLens
from mechicl.probes.logit_lens import QUANTITIES
from tests import tiny
from tests.random_prompts import random_prompts

ATOL = 1e-6


@pytest.fixture(scope="module")
def corpus():
    texts = ["Review good film", "Question Answer Type of a Person in the World"]
    return load_corpus(tiny.tokenizer(), texts, n_ctx=40, packing="documents", prepend_bos=True)


@pytest.mark.parametrize("family", tiny.families)
def test_the_last_point_is_the_model(family, corpus):
    model = tiny.model(family)
    reading = run(model, corpus, [probe := LogitLens()])[probe]
    assert reading.counts["positions"].flatten().tolist() == (corpus.lengths - 1).tolist()
    assert reading.counts["targets"].flatten().tolist() == (corpus.lengths - 2).tolist()
    for quantity in ("kl", "kl_reverse", "js_divergence"):
        assert reading[quantity][:, -1].abs().max() < 5e-6
    for quantity in ("agreement", "reciprocal_rank", "top_k_overlap", "cosine"):
        torch.testing.assert_close(reading[quantity][:, -1], torch.ones(2).double(), atol=5e-6, rtol=1e-4)
    for row, length in enumerate(corpus.lengths):
        tokens = corpus.tokens[row : row + 1, :length]
        logits = model(tokens)[:, 1:]
        entropy = metrics.entropy(logits, unit="bits").double().mean()
        torch.testing.assert_close(reading["entropy"][row, -1], entropy, atol=5e-5, rtol=1e-4)
        loss = metrics.cross_entropy(logits[:, :-1], tokens[:, 2:]).double().mean()
        torch.testing.assert_close(reading["loss"][row, -1], loss, atol=5e-5, rtol=1e-4)


def test_points_are_residuals_under_the_final_norm(corpus):
    model = tiny.model("gpt2")
    kl = run(model, corpus, [probe := LogitLens(only=("kl",))])[probe].values
    tokens = corpus.tokens[1:]
    _, cache = model.run_with_cache(tokens)
    for layer in range(3):
        logits = hooked(model).lens(cache[f"blocks.{layer}.hook_resid_pre"][:, 1:])
        expected = metrics.kl_divergence(model(tokens)[:, 1:], logits).double().mean()
        torch.testing.assert_close(kl[1, layer], expected, atol=5e-5, rtol=1e-4)


def test_the_authors_lens_is_another_at_the_last_point(corpus):
    model = tiny.fresh("gpt2", "fold")
    reading = run(model, corpus, [probe := LogitLens("authors")])[probe]
    assert (reading.mean("sequence")["kl"][-1] > 1e-3).all()  # b_U is missing


def test_in_prompts_the_lens_reads_q():
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    reading = run(model, prompts, [probe := LogitLens()])[probe]
    assert reading.shape == (3, 4)
    assert list(reading.quantities) == list(QUANTITIES)
    assert not reading.counts["targets"].any()
    assert reading["loss"].isnan().all()
    assert (reading["agreement"][:, -1] == 1).all()


@pytest.fixture
def tuned():
    """A translator of each layer, fitted to no model."""
    draw = torch.Generator().manual_seed(0)
    shape = (tiny.D_MODEL, tiny.D_MODEL)

    def of(n_layers):
        A = 0.1 * torch.randn(n_layers, *shape, generator=draw)
        return TunedLens(A, torch.randn(n_layers, tiny.D_MODEL, generator=draw))

    return of


@pytest.mark.parametrize("lens", ["corrected", "authors", "tuned"])
@pytest.mark.parametrize("family", tiny.families)
def test_all_quantities_are_those_of_whole_rows_in_float64(family, lens, corpus, tuned, monkeypatch):
    monkeypatch.setattr(readout, "_TILE", {"cpu": (20, 100)})  # several tiles, several parts
    monkeypatch.setattr(TunedLens, "check", lambda self, net: None)
    model = tiny.fresh(family).requires_grad_(False)
    probe = LogitLens(tuned(model.cfg.n_layers) if lens == "tuned" else lens, top_k=5)
    reading = run(model, corpus, [probe], batch_size=1)[probe]
    for row, length in enumerate(corpus.lengths):
        expected = whole_rows(model, probe, corpus.tokens[row : row + 1, :length])
        for name, values in expected.items():
            ours = reading[name][row]
            torch.testing.assert_close(ours, values, rtol=1e-5, atol=ATOL, msg=lambda m, n=name: f"{n}: {m}")


def clamped_entropy(logits):
    """As the authors' notebook takes it."""
    p = logits.softmax(-1).clamp(min=1e-9)
    return -(p * p.log2()).sum(-1)


def whole_rows(model, probe, tokens):
    """Means over positions of each quantity at each point, from whole rows of logits in float64."""
    net, n_layers = hooked(model), model.cfg.n_layers
    _, cache = model.run_with_cache(tokens)
    points = [cache[f"blocks.{i}.hook_resid_pre"][0, 1:] for i in range(n_layers)]
    points.append(cache[f"blocks.{n_layers - 1}.hook_resid_post"][0, 1:])
    final = net.lens(points[-1]).double()
    if isinstance(probe.lens, TunedLens):
        points = [probe.lens(i, point) for i, point in enumerate(points)]
    logits = [net.lens(point) for point in points]
    if probe.lens == "authors":
        scale = cache["ln_final.hook_scale"][0, 1:]
        moved = [(x - x.mean(-1, keepdim=True)) / scale for x in points] if net.sizes.centred else points
        logits = [x @ net.W_U for x in moved]
    top = final.argmax(-1)
    rows = []
    for point, lens in zip(points, (z.double() for z in logits), strict=True):
        rows.append({
            "entropy": clamped_entropy(lens) if probe.lens == "authors" else metrics.entropy(lens, unit="bits"),
            "kl": metrics.kl_divergence(final, lens),
            "kl_reverse": metrics.kl_divergence(lens, final),
            "js_divergence": metrics.js_divergence(final, lens),
            "top_k_overlap": metrics.top_k_overlap(final, lens, probe.top_k),
            "agreement": metrics.top_1_agreement(final, lens),
            "reciprocal_rank": 1 / metrics.token_rank(lens, top),
            "cosine": torch.cosine_similarity(point, points[-1], dim=-1),
            "loss": metrics.cross_entropy(lens[:-1], tokens[0, 2:]),
        })  # fmt: skip
    assert rows[0].keys() == set(QUANTITIES)
    return {name: torch.stack([one[name].double().mean() for one in rows]) for name in QUANTITIES}


def test_an_unknown_lens_is_refused():
    with pytest.raises(InputError, match="lens is"):
        LogitLens("tuned")
