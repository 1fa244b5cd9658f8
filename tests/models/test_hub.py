"""The hub: no network is said at once, and a download is announced with its size."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from mechicl import InputError, load_corpus, load_model, load_task
from mechicl.models import hub


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that does not answer, for clients that do not know it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.reachable.cache_clear()
    yield
    hub.reachable.cache_clear()


def test_without_network_there_is_a_sentence_within_seconds(no_network: None) -> None:
    tokenizer = load_model("tiny-icl").tokenizer
    start = time.monotonic()
    for ask in (
        lambda: load_model("gpt2-xl"),
        lambda: load_task("sst2").prompts(tokenizer, samples=2),
        lambda: load_corpus(tokenizer, "NeelNanda/pile-10k", prepend_bos=True, n_ctx=16, tokens=32),
    ):
        with pytest.raises(InputError, match="hub"):
            ask()
    assert time.monotonic() - start < 15
    assert constants.HF_HUB_OFFLINE is False, "the client is given back as it was"


@pytest.mark.parametrize("known", [True, False])
def test_a_download_is_announced_once_and_with_its_size(
    known: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def model_info(self: Any, name: str, **_: Any) -> Any:
        if not known:
            raise ConnectionError
        files = {"model.safetensors": 6.43e9, "pytorch_model.bin": 6.5e9, "onnx/model.safetensors": 1e9}
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=int(s)) for n, s in files.items()])

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    hub.announce("someone/not-here")
    assert ("6.4 GB" if known else "not known") in capsys.readouterr().err
    monkeypatch.setattr(hub, "kept", lambda model, revision: True)
    hub.announce("someone/not-here")
    assert capsys.readouterr().err == ""
