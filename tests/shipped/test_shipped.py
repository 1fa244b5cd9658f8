"""The shipped model: how good it is, with margin, and that it loads quickly and from the package alone."""

from __future__ import annotations

import time
from importlib.resources import files

import torch

from benchmarks.tiny_icl import evaluate
from benchmarks.tiny_icl.network import load_network
from mechicl.shipped import LABEL_WORDS, TEMPLATES, examples, load_tiny_icl

torch.set_num_threads(2)


def test_accuracy_on_held_out_texts_and_mappings() -> None:
    network = load_network()
    assert evaluate.accuracy(network, 2, 1, 200, seed=7) > 0.95
    assert evaluate.accuracy(network, 4, 1, 200, seed=7) > 0.9


def test_loss_of_running_text_is_near_the_entropy() -> None:
    assert evaluate.running_text(load_network(), 16, 255, seed=7).excess < 0.05


def test_the_hooked_model_is_the_network() -> None:
    model, tokens = load_tiny_icl(), torch.arange(250)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), load_network()(tokens), atol=1e-4, rtol=0)


def test_it_answers_a_prompt_given_as_a_string() -> None:
    model, right = load_tiny_icl(), 0
    demonstrations, queries = list(examples("train", [0, 1], 40, 0)), list(examples("test", [0, 1], 40, 1))
    for i in range(0, 40, 2):
        shown = list(zip(demonstrations[i : i + 2], LABEL_WORDS[:2], strict=True))
        blocks = [TEMPLATES[0].format(text=text, label=label) for (text, _), label in shown]
        text, name = queries[i + i // 2 % 2]
        prompt = "\n".join([*blocks, TEMPLATES[0].format(text=text, label="")])
        with torch.no_grad():
            logits = model(model.to_tokens(prompt, prepend_bos=False))[0, -1]
        answer = max(shown, key=lambda pair: logits[model.to_single_token(pair[1])].item())
        right += answer[0][1] == name
    assert right >= 19


def test_the_tokenizer_adds_no_bos() -> None:
    model = load_tiny_icl()
    assert model.tokenizer("").input_ids == []
    assert model.tokenizer.bos_token == "<|bos|>"
    assert model.to_tokens(" the").shape == (1, 1)


def test_it_is_small_and_loads_quickly() -> None:
    folder = files("mechicl.shipped") / "tiny_icl"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 8_000_000
    load_tiny_icl()  # imports TransformerLens
    began = time.perf_counter()
    load_tiny_icl()
    assert time.perf_counter() - began < 2
