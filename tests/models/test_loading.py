"""Loading: what works without a network, and one sentence for everything that cannot work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mechicl.errors import InputError
from mechicl.models import load_model, provenance
from mechicl.models.loading import parse_device, parse_dtype
from mechicl.models.processing import Processing
from tests import tiny
from tests.conftest import SHARED

SHARED_MODELS = [path.name for path in sorted((SHARED / "models").glob("*")) if path.is_dir()]


@pytest.fixture
def directory(tmp_path):
    """A small model as `save_pretrained` writes it, under a name that would mislead TransformerLens."""
    path = tmp_path / "not-a-llama"
    tiny.huggingface("gpt2").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("touched the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", SHARED_MODELS or [pytest.param("", marks=pytest.mark.skip("no shared models"))])
def test_real_directories_give_the_hugging_face_logits(name, no_network):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = SHARED / "models" / name
    model = load_model(path)
    original = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    text = "Review: the little dog was happy.\nSentiment: Positive"
    ids = model.tokenizer(text)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(path)(text)["input_ids"]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), original(tokens).logits, atol=1e-4, rtol=1e-5)
    assert model.W_E.dtype == torch.float32  # also of models that are float16 on disk


def test_every_family_loads_from_a_directory(tmp_path, no_network):
    for family in tiny.families:
        path = tmp_path / f"my-{family}"  # TransformerLens would interpret "my-llama"
        tiny.huggingface(family).save_pretrained(path)
        model = load_model(str(path))
        tokens = tiny.tokens()
        with torch.no_grad():
            torch.testing.assert_close(model(tokens), tiny.model(family)(tokens))
        assert model.cfg.model_name == f"my-{family}"
        assert model.tokenizer is None


def test_the_tokenizer_adds_nothing_by_itself(directory):
    model = load_model(directory)
    ids = tiny.tokenizer()("Review: good")["input_ids"]
    assert model.tokenizer("Review: good")["input_ids"] == ids
    assert model.tokenizer.padding_side == "right"
    # ... and TransformerLens's own helpers still do what they are asked.
    assert model.to_tokens("Review: good", prepend_bos=False).tolist() == [ids]
    assert model.to_tokens("Review: good", prepend_bos=True).tolist() == [[model.tokenizer.bos_token_id, *ids]]


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16])
def test_dtype_is_the_one_asked_for(directory, dtype):
    assert load_model(directory, dtype=dtype).W_E.dtype == parse_dtype(dtype)


def test_a_hooked_transformer_is_returned_as_it_is():
    model = tiny.model("gpt2")
    assert load_model(model) is model


def test_processing_is_recorded(directory):
    assert provenance(load_model(directory))["processing"] == "none"
    folded = load_model(directory, processing="fold")
    assert provenance(folded)["processing"] == "fold_ln+center_writing_weights+center_unembed"
    assert folded.blocks[0].attn.b_V.abs().max() > 0


def spoil_config(path, **changes):
    file = path / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def spoil_weights(path, edit):
    file = path / "model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, {"format": "pt"})


def only_a_pickle(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def truncate(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def lose_a_shard(path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")


DAMAGE = {
    "has no config.json": lambda path: (path / "config.json").unlink(),
    "is not JSON": lambda path: (path / "config.json").write_text("{"),
    "names no architecture": lambda path: spoil_config(path, architectures=None),
    "is not a causal language model": lambda path: spoil_config(path, architectures=["BertForMaskedLM"]),
    "own; pass trust_remote_code=True": lambda path: spoil_config(path, auto_map={"AutoConfig": "code.C"}),
    "only as a pickle": only_a_pickle,
    "has no model.safetensors": lambda path: (path / "model.safetensors").unlink(),
    "damaged or truncated": truncate,
    "lacks model-00002-of-00002.safetensors": lose_a_shard,
    "weights in .* lack": lambda path: spoil_weights(path, lambda w: w.pop("transformer.h.1.mlp.c_fc.weight")),
    "is not finite in float32": lambda path: spoil_weights(
        path, lambda w: w["transformer.wpe.weight"].fill_(torch.nan)
    ),
    "tokenizer in .* cannot be read": lambda path: (path / "tokenizer.json").write_text("{}"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_directory_is_one_sentence(directory, message):
    DAMAGE[message](directory)
    with pytest.raises(InputError, match=message) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt2-xxl", "No model 'gpt2-xxl'.*did you mean gpt2-xl"),
        ("tiny_icl", "did you mean tiny-icl"),
        ("./nowhere", "There is no folder ./nowhere"),
        ("/no/such/place", "There is no folder"),
        ("NeelNanda/GELU_2L512W_C4_Code", "pickle"),
        ("microsoft/phi-2", "trust_remote_code=True"),
        (42, "Expected a HookedTransformer or a TransformerBridge, got int"),
    ],
)
def test_what_is_no_model(name, message):
    with pytest.raises(InputError, match=message):
        load_model(name)


def test_options_that_do_not_exist():
    with pytest.raises(InputError, match="Processing 'folded' does not exist"):
        Processing.named("folded")
    for dtype in ("int8", "floaty", torch.int64):
        with pytest.raises(InputError, match="No model runs in dtype"):
            parse_dtype(dtype)
    with pytest.raises(InputError, match="PyTorch knows no device"):
        parse_device("gpu")
    with pytest.raises(InputError, match=r"GPUs?, and there are"):
        parse_device("cuda:99")
    with pytest.raises(InputError, match=r"GPUs?, and there are"):
        parse_device(None, n_devices=64)


def test_importing_is_fast():
    """TransformerLens takes seconds to import: it may load with a model, never with the package."""
    code = "import sys, mechicl.models; print({'transformer_lens', 'transformers'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
