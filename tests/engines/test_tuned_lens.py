"""The tuned lens: it starts as the logit lens, ends nearer to the model, and no interruption changes it."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import pytest
import torch

from mechicl import metrics
from mechicl.corpora import load_corpus
from mechicl.engines.tuned_lens import _positions, fit_tuned_lens, tuned_lens_seconds
from mechicl.errors import InputError, NumericalError
from mechicl.hooks import run
from mechicl.models import hooked, provenance
from mechicl.probes import LogitLens, TunedLens
from mechicl.studies.stages.lens import LensStudy
from tests import tiny
from tests.engines import killed
from tests.engines.killed import corpus


def identity(family: str) -> TunedLens:
    sizes = hooked(tiny.model(family)).sizes
    zeros = torch.zeros(sizes.n_layers, sizes.d_model)
    about = {"weight_digest": provenance(tiny.model(family))["weight_digest"]}
    return TunedLens(zeros[..., None].expand(-1, -1, sizes.d_model), zeros, about)


@pytest.mark.parametrize("family", tiny.families)
def test_untrained_it_is_the_corrected_lens_and_trained_it_ends_in_the_model(family: str) -> None:
    model, text = tiny.model(family), corpus()
    plain, tuned = LogitLens(), LogitLens(identity(family))
    seen = run(model, text, [plain, tuned])
    torch.testing.assert_close(seen[tuned].quantities, seen[plain].quantities)
    fitted = LogitLens(fit_tuned_lens(model, text, steps=3, lr=0.01, batch_size=2))
    after = run(model, text, [fitted])[fitted]
    for name, values in seen[plain].quantities.items():
        assert torch.equal(after[name][:, -1], values[:, -1])
    assert not torch.equal(after["kl"][:, :-1], seen[plain]["kl"][:, :-1])
    assert provenance(model)["weight_digest"] == identity(family).about["weight_digest"]


def test_a_step_reads_so_many_positions_and_never_the_first() -> None:
    text = corpus()
    batch = text.batch()
    whole = int((batch.lengths - 1).sum())
    for most in (3, whole, 10 * whole):
        chosen = _positions(batch, most, [0, 1])
        assert int(chosen.sum()) == min(most, whole)
        assert not chosen[:, 0].any()
        assert not (chosen & ~batch.real).any()
    assert not torch.equal(_positions(batch, 3, [0, 1]), _positions(batch, 3, [0, 2]))


def test_the_time_is_told_before_by_the_work_of_a_step() -> None:
    """In proportion to steps and, where learning costs most, to positions; nothing is fitted and nothing changes."""
    model, text = tiny.model("gpt2"), corpus()
    before = provenance(model)["weight_digest"]
    tuned_lens_seconds(text, model, steps=1)  # warm
    one, many = (min(tuned_lens_seconds(text, model, steps=steps) for _ in range(3)) for steps in (1, 100))
    assert many == pytest.approx(100 * one, rel=0.9)
    start = time.perf_counter()
    fit_tuned_lens(model, text, steps=30)
    taken = time.perf_counter() - start
    assert taken / 20 < tuned_lens_seconds(text, model, steps=30) < 20 * taken
    assert provenance(model)["weight_digest"] == before


def test_a_step_goes_against_the_gradient_of_the_mean_kl() -> None:
    model, text = tiny.model("neox"), corpus()[:1]
    lens = fit_tuned_lens(model, text, steps=1, lr=1e-3, batch_size=1)
    _, cache = model.run_with_cache(text.tokens)
    b = torch.zeros(tiny.N_LAYERS, tiny.D_MODEL, requires_grad=True)
    final = model(text.tokens)[0, 1:].detach()
    for layer in range(tiny.N_LAYERS):
        logits = hooked(model).lens(cache[f"blocks.{layer}.hook_resid_pre"][0, 1:].detach() + b[layer])
        kl = metrics.kl_divergence(final, logits).mean()
        torch.testing.assert_close(lens.kl[0, layer], kl.detach())
        kl.backward()
    torch.testing.assert_close(lens.b, -1e-3 * b.grad.sign(), atol=1e-6, rtol=1e-3)  # Adam's first step


def test_on_a_trained_model_it_lowers_the_kl_at_every_layer_of_unseen_text(load_shared_model, shared) -> None:
    model = load_shared_model("stories260K")
    text = load_corpus(model.tokenizer, shared / "data/text/tinystories_sample.jsonl", prepend_bos=True, n_ctx=64,
                       tokens=8000)  # fmt: skip
    judged, learned = text.apart(2000)
    plain, tuned = LogitLens(only=("kl",)), LogitLens(fit_tuned_lens(model, learned, steps=25, lr=5e-3), only=("kl",))
    seen = run(model, judged, [plain, tuned])
    lower, higher = (seen[probe].mean("sequence").values[:-1] for probe in (tuned, plain))
    assert (lower < higher).all()


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_kill_9_changes_nothing(tmp_path: Path) -> None:
    undisturbed = killed.fit(tmp_path / "undisturbed")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.studies.killed", "tests.engines.killed"])  # one for the process
    part = tmp_path / "killed" / "tuned_lens.part.safetensors"
    for _ in range(2):
        victim = context.Process(target=killed.fit, args=(tmp_path / "killed", True))
        before = part.stat().st_mtime_ns if part.exists() else 0
        victim.start()
        while victim.is_alive() and (not part.exists() or part.stat().st_mtime_ns == before):
            time.sleep(0.001)
        victim.kill()
        victim.join()
        assert not TunedLens.is_in(tmp_path / "killed"), "it was killed in the middle of the work"
    resumed = killed.fit(tmp_path / "killed")
    assert torch.equal(resumed.A, undisturbed.A)
    assert torch.equal(resumed.kl, undisturbed.kl)
    assert not part.exists()
    assert killed.fit(tmp_path / "killed").digest == resumed.digest  # read, not fitted again


def test_saved_and_loaded_it_knows_its_model_and_its_text(tmp_path: Path) -> None:
    model, text = tiny.model("gpt2"), corpus()
    lens = fit_tuned_lens(model, text, steps=2, batch_size=2, out=tmp_path)
    loaded = TunedLens.load(tmp_path)
    assert loaded.digest == lens.digest
    with pytest.raises(InputError, match="not to tiny-llama"):
        run(tiny.model("llama"), text, [LogitLens(loaded)])
    with pytest.raises(InputError, match="processing"):
        loaded.check(tiny.fresh("gpt2", "fold"))
    with pytest.raises(InputError, match="learned from"):
        LensStudy(tuned=loaded).run(model, text)
    other = load_corpus(
        tiny.tokenizer(), ["a film of Sports and Business"], prepend_bos=True, n_ctx=30, packing="documents"
    )
    result = LensStudy(tuned=loaded).run(model, other)
    assert set(result.table["lens"]) == {"corrected", "tuned"}
    assert result.provenance["settings"]["tuned"] == lens.digest
    assert "tuned lens takes KL" in " ".join(result.details())
    (tmp_path / "tuned_lens.json").write_text('{"sha256": "other", "about": {}}')
    with pytest.raises(InputError, match="not the file that its JSON describes"):
        TunedLens.load(tmp_path)


def test_bad_settings_and_overflow_are_one_sentence() -> None:
    with pytest.raises(InputError, match="steps"):
        fit_tuned_lens(tiny.model("gpt2"), corpus(), steps=0)
    broken = tiny.fresh("gpt2")
    broken.blocks[1].mlp.b_out.data.fill_(float("inf"))
    with pytest.raises(NumericalError, match="before layer 0"):
        fit_tuned_lens(broken, corpus(), steps=1)
