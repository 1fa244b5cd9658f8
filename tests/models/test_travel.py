"""What one class of model saved, the other one reads: contexts, tuned lenses and re-weightings, by where weights are from."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.engines.context import Context, read_context
from mechicl.engines.reweighting import fit_reweighting
from mechicl.engines.tuned_lens import fit_tuned_lens
from mechicl.errors import InputError
from mechicl.models.provenance import identity, weight_digest
from mechicl.patches import ReweightAnchors
from mechicl.probes import TunedLens
from tests import tiny
from tests.contract import catalogue

both = pytest.mark.skipif(not tiny.HOOKED, reason="this TransformerLens has Bridges alone")
ORIGIN = "cfd934c9b6ef686561270305e8e8651eb878a5fa02c100d4f751156171f1d047"
"""Of tiny-icl's files, as they are, in float32: with either class and either version of TransformerLens."""


@pytest.fixture(scope="module", params=["gpt2", "gptj", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("models") / f"my-{request.param}"
    tiny.huggingface(request.param).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@both
@pytest.mark.parametrize("ours", ["hooked", "bridge"])
def test_what_one_class_saved_the_other_reads(folder: Path, tmp_path: Path, ours: Any) -> None:
    theirs: Any = {"hooked": "bridge", "bridge": "hooked"}[ours]
    model, other = (mi.load_model(folder, backend=backend) for backend in (ours, theirs))
    assert weight_digest(model) != weight_digest(other), "the control"
    prompts = catalogue.prompts()
    read_context(model, prompts[0]).save(tmp_path)
    fit_reweighting(model, prompts, epochs=1, order=[[0]]).patch.save(tmp_path)
    fit_tuned_lens(model, catalogue.text()[:1], steps=1, batch_size=1).save(tmp_path)

    asked = Context.load(tmp_path).ask(other, prompts).label_logits
    torch.testing.assert_close(asked, read_context(other, prompts[0]).ask(other, prompts).label_logits)
    TunedLens.load(tmp_path).check(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mi.run(other, prompts, patches=[ReweightAnchors.load(tmp_path)], progress=None)

    for changed in (mi.load_model(folder, backend=theirs, processing="fold"), other):
        with torch.no_grad():
            changed.embed.W_E[0, 0] += 1.0 if changed is other else 0.0
        with pytest.raises(InputError, match="read by another model"):
            Context.load(tmp_path).ask(changed, prompts)
        with pytest.raises(InputError, match="was fitted to"):
            TunedLens.load(tmp_path).check(changed)
        with pytest.warns(UserWarning, match="was fitted to"):
            mi.run(changed, prompts, patches=[ReweightAnchors.load(tmp_path)], progress=None)


@pytest.mark.parametrize("backend", ["hooked", "bridge"] if tiny.HOOKED else ["bridge"])
def test_where_weights_are_from_is_the_same_in_every_version(backend: Any) -> None:
    model = mi.load_model("tiny-icl", backend=backend)
    assert identity(model)["origin_digest"] == ORIGIN
    assert identity(mi.load_model("tiny-icl", backend=backend, dtype="float16"))["origin_digest"] != ORIGIN
    with torch.no_grad():
        model.embed.W_E[0, 0] += 1.0
    assert identity(model)["origin_digest"] == ""


def test_without_files_there_is_no_origin() -> None:
    assert identity(tiny.model("gpt2"))["origin_digest"] == ""
