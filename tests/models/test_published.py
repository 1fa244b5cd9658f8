"""Models on the hub, by a stand-in: revisions, training steps, and what is not there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from mechicl.errors import InputError
from mechicl.models import load_model
from mechicl.models.names import understood
from mechicl.models.published import _branch, name_on_hub
from tests import tiny
from tests.hub_stand_in import commit, hub, read_from

PYTHIA = "EleutherAI/pythia-70m"

READ = """
import json, sys
import torch
from mechicl.errors import InputError
from mechicl.models import load_model, provenance

found = {}
for name in sys.argv[1:]:
    try:
        model = load_model(name)
    except InputError as error:
        found[name] = str(error)
        continue
    facts = provenance(model)
    kept = {key: facts.get(key) for key in ("name", "source", "hub", "revision", "commit")}
    found[name] = {**kept, "mean": float(model.unembed.W_U.mean()), "ids": model.tokenizer("good film")["input_ids"]}
print(json.dumps(found))
"""


read = partial(read_from, code=READ)


def content(folder: Path, shift: float) -> dict[str, bytes]:
    """The files of a tiny Pythia whose unembedding is moved by so much."""
    import copy

    model = copy.deepcopy(tiny.huggingface("neox"))
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(shift)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_revision_is_what_is_loaded(tmp_path: Path) -> None:
    """Each branch holds other weights; a step is found by its number, by its branch's name, and by its commit."""
    models = {
        (PYTHIA, branch): content(tmp_path / branch, shift)
        for shift, branch in enumerate(("main", "step1000", "step2000"))
    }
    by_commit = f"{PYTHIA}@{commit('step2000')}"
    asked = [PYTHIA, f"{PYTHIA}@step1000", f"{PYTHIA}@2000", by_commit, f"{PYTHIA}@no-such-branch"]
    with hub(models) as (address, _):
        found = read(address, tmp_path / "home", *asked)
    plain = float(tiny.huggingface("neox").get_output_embeddings().weight.mean())
    for name, shift, branch in ((asked[0], 0, "main"), (asked[1], 1, "step1000"), (asked[2], 2, "step2000")):
        assert found[name]["mean"] == pytest.approx(plain + shift, abs=1e-5)
        assert found[name]["revision"] == branch
        assert found[name]["commit"] == commit(branch)
        assert found[name]["source"] == name
        assert found[name]["ids"] == tiny.tokenizer()("good film")["input_ids"]
    assert found[by_commit]["mean"] == pytest.approx(plain + 2, abs=1e-5)
    assert (found[asked[0]]["name"], found[asked[1]]["name"]) == ("pythia-70m", "pythia-70m@step1000")
    assert "has no revision 'no-such-branch' on the hub" in found[asked[4]]


def test_a_wrong_conversion_from_the_hub_is_refused(tmp_path: Path) -> None:
    """A hub name is compared with its original as a folder is: here a Llama whose biases TransformerLens drops."""
    import transformers

    config = transformers.LlamaConfig(**tiny._SIZES, num_key_value_heads=2, attention_bias=True)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("proj.bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "llama")
    files = {path.name: path.read_bytes() for path in (tmp_path / "llama").iterdir()}
    with hub({(PYTHIA, "main"): files}) as (address, _):
        (said,) = read(address, tmp_path / "home", PYTHIA).values()
    assert "wrongly: it drops model.layers.0.self_attn.q_proj.bias" in said


def test_steps_are_those_that_the_model_has() -> None:
    assert _branch(PYTHIA, "step512") == _branch(PYTHIA, "512") == "step512"
    assert _branch("stanford-crfm/alias-gpt2-small-x21", "400000") == "checkpoint-400000"
    assert _branch("openai-community/gpt2", "1000") == "1000"  # a tag, a branch, the start of a commit
    with pytest.raises(InputError, match="no checkpoint of step 777; the nearest are 512 and 1000"):
        _branch(PYTHIA, "step777")


def test_names_that_nobody_knows() -> None:
    assert name_on_hub("pythia-70m") == PYTHIA
    with pytest.raises(InputError, match="did you mean smollm2-135m-q4"):
        load_model("smollm2-135m")
    with pytest.raises(InputError, match="llama-7b-hf is not on the hub; give the folder"):
        load_model("llama-7b")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135m-q4@main", "smollm2-135m-q4 has no revisions; leave out @main"),
        ("tiny-icl@main", "tiny-icl has no revisions"),
        ("gpt2@", "give name@revision"),
        ("@main", "give name@revision"),
        ("", "The model's name is ''"),
        (Path("nothing here"), "There is no folder nothing here"),
        ("~nouser/x", "There is no folder ~nouser/x"),
        ("a" * 300 + ".gguf", "cannot be read"),
    ],
)
def test_odd_names_are_one_sentence(name: str | Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as said:
        load_model(name)
    assert "\n" not in str(said.value)


def test_a_revision_may_hold_slashes_and_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    named = understood("EleutherAI/pythia-70m@refs/pr/3")
    assert (named.kind, named.hub, named.revision) == ("hub", PYTHIA, "refs/pr/3")
    tiny.huggingface("llama").save_pretrained(tmp_path / "m.gguf")
    assert load_model(tmp_path / "m.gguf").cfg.model_name == "m.gguf"
