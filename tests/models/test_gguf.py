"""GGUF files: the numbers of the model that was written into them, and one sentence for what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mechicl.errors import InputError
from mechicl.models import load_model, provenance
from tests import tiny
from tests.gguf_files import write_llama


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny-llama.gguf"
    write_llama(path, tiny.huggingface("llama"))
    return path


def test_a_gguf_file_gives_the_logits_of_its_model(file: Path) -> None:
    model, original = load_model(file), tiny.huggingface("llama")
    tokens = tiny.tokens(2, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), original(tokens).logits, atol=1e-4, rtol=1e-5)
    assert model.cfg.model_name == "tiny-llama"
    assert model.tokenizer.decode(model.tokenizer("a good film")["input_ids"]) == "a good film"
    facts = provenance(model)
    assert (facts["file"], facts["quantisation"]) == ("tiny-llama.gguf", "F32, dequantised")
    assert len(facts["files_sha256"]) == 64


def test_a_quantised_file_is_dequantised_and_says_so(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "q8.gguf"
    write_llama(path, tiny.huggingface("llama"), quantised=True)
    quantised, plain = load_model(path), load_model(file)
    assert provenance(quantised)["quantisation"] == "Q8_0, dequantised"
    error = (quantised.W_Q - plain.W_Q).abs().max()
    assert 0 < error < 0.01  # 8 bits of numbers up to 1
    assert provenance(quantised)["weight_digest"] != provenance(plain)["weight_digest"]


def test_what_is_no_gguf_file_is_one_sentence(tmp_path: Path, file: Path) -> None:
    for name, content, message in (
        ("text.gguf", b"not a model", "is not a GGUF file"),
        ("short.gguf", file.read_bytes()[:300], "is damaged or cut off"),
        ("half.gguf", file.read_bytes()[: file.stat().st_size // 2], "damaged or cut off|cannot read"),
        ("empty.gguf", b"", "is not a GGUF file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path / "nowhere.gguf")


def test_an_architecture_that_the_reader_does_not_know(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "strange.gguf"
    writer = gguf.GGUFWriter(path, "strange")
    writer.add_name("strange")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="cannot read"):
        load_model(path)


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "tiny-00001-of-00003.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="is one of 3 parts"):
        load_model(path)


def test_a_folder_with_a_gguf_file_alone_names_it(tmp_path: Path) -> None:
    tiny.huggingface("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"to load its GGUF file, give .*some\.gguf"):
        load_model(tmp_path)
