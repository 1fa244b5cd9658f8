"""Prompts and text know which tokenizer made them, and no model with another one runs them."""

from __future__ import annotations

import copy
import gc
import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mechicl import explore
from mechicl.corpora import load_corpus
from mechicl.engines.compression import compress
from mechicl.engines.context import Context
from mechicl.engines.prefix import run_shared
from mechicl.engines.reweighting import fit_reweighting
from mechicl.engines.tuned_lens import fit_tuned_lens
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import tokenizer_digest
from mechicl.models.tokenizers import token_text
from mechicl.prompts import Prompt, PromptSet
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.reweighting import Reweighting
from mechicl.studies.label_words.saliency_map import saliency_map
from mechicl.studies.stages.lens import LensStudy
from mechicl.studies.stages.wic import Wic
from tests import tiny
from tests.contract import catalogue


def made(words):
    """A tokenizer like tiny's, whose added words have their numbers in another order."""
    core = copy.deepcopy(tiny.tokenizer().backend_tokenizer)
    state = json.loads(core.to_str())
    added = [token for token in state["added_tokens"] if not token["special"]]
    for token, content in zip(added, words([token["content"] for token in added]), strict=True):
        token["content"] = content
    return PreTrainedTokenizerFast(
        tokenizer_object=type(core).from_str(json.dumps(state)), bos_token="<|endoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", model_max_length=tiny.N_CTX,
    )  # fmt: skip


@pytest.fixture(scope="module")
def other():
    return made(lambda words: words[::-1])


def test_the_same_tokenizer_has_the_same_digest_wherever_it_lies_and_whatever_it_did(tmp_path):
    tokenizer = made(list)
    digest = tokenizer_digest(tokenizer)
    assert digest == tokenizer_digest(tiny.tokenizer())
    for name in ("here", "there"):
        tokenizer.save_pretrained(tmp_path / name)
        assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path / name)) == digest
    loaded = AutoTokenizer.from_pretrained(tmp_path / "here", padding_side="left")
    loaded(["a film", "bad"], padding=True, truncation=True, max_length=5)
    loaded.pad_token, loaded.name_or_path = loaded.eos_token, "elsewhere"
    assert loaded.backend_tokenizer.truncation is not None
    assert tokenizer_digest(loaded) == digest


def test_other_tokens_or_other_divisions_have_another_digest(other):
    tokenizer = made(list)
    digest = tokenizer_digest(tokenizer)
    assert tokenizer_digest(other) != digest
    tokenizer.add_tokens(["zebra"])
    assert tokenizer_digest(tokenizer) != digest
    state = json.loads(tiny.tokenizer().backend_tokenizer.to_str())
    state["pre_tokenizer"]["add_prefix_space"] = True
    spaced = PreTrainedTokenizerFast(tokenizer_object=type(other.backend_tokenizer).from_str(json.dumps(state)))
    assert tokenizer_digest(spaced) not in (digest, tokenizer_digest(other))


def test_a_slow_tokenizer_and_none():
    class Slow:
        def __init__(self, vocab):
            self.vocab = vocab

        def __len__(self):
            return len(self.vocab)

        def get_vocab(self):
            return self.vocab

    assert tokenizer_digest(None) == tokenizer_digest(object()) == ""
    one, same, two = Slow({"a": 0, "b": 1}), Slow({"b": 1, "a": 0}), Slow({"a": 1, "b": 0})
    assert tokenizer_digest(one) == tokenizer_digest(same) != tokenizer_digest(two)
    del one
    gc.collect()


PROMPTS = "These prompts were made with another tokenizer than that of tiny-gpt2"
TEXT = "This text was tokenized with another tokenizer than that of tiny-gpt2"
DOORS = {
    "run": lambda model, prompts: run(model, prompts),
    "run, prompts in a list": lambda model, prompts: run(model, list(prompts)),
    "run_shared": lambda model, prompts: run_shared(model, prompts),
    "a study": lambda model, prompts: InformationFlow().run(model, prompts),
    "a study of several sets": lambda model, prompts: InformationFlow().run(
        model, [catalogue.prompts(), replace(prompts, seed=1)]
    ),
    "an estimate": lambda model, prompts: InformationFlow().estimate(model, prompts),
    "an auxiliary prompt": lambda model, prompts: Reweighting().run(
        model, replace(catalogue.prompts(), auxiliary={"training": prompts})
    ),
    "compress": lambda model, prompts: compress(model, prompts[0]),
    "fit_reweighting": lambda model, prompts: fit_reweighting(model, prompts, epochs=1),
    "explore": lambda model, prompts: explore(model, prompts[0]),
    "saliency_map": lambda model, prompts: saliency_map(model, prompts[0], [0]),
    "a context": lambda model, prompts: compress(model, catalogue.prompts()[0]).ask(model, prompts),
}


@pytest.mark.parametrize("door", DOORS)
def test_prompts_of_another_tokenizer_are_refused(door, other):
    model = tiny.model("gpt2")
    prompts = catalogue.TASK.prompts(other, seed=0, samples=3)
    if door == "a context":  # the same label words have other ids; the tokenizer's sentence is for ids that agree
        prompts = replace(prompts, prompts=tuple(replace(p, label_ids=catalogue.prompts().label_ids) for p in prompts))
    with pytest.raises(InputError, match=PROMPTS) as refusal:
        DOORS[door](model, prompts)
    assert "build them again with task.prompts(model.tokenizer, ...)" in str(refusal.value)


@pytest.mark.parametrize("door", ["run", "run_shared", "compress", "saliency_map"])
def test_the_same_prompts_pass_with_their_own_tokenizer(door):
    DOORS[door](tiny.model("gpt2"), catalogue.TASK.prompts(made(list), seed=0, samples=3))


def test_text_and_word_pairs_of_another_tokenizer_are_refused(other, monkeypatch):
    model = tiny.model("gpt2")
    text = load_corpus(other, ["a good film, and a bad one"] * 4, prepend_bos=True, n_ctx=12, packing="documents")
    for refused in (
        lambda: run(model, text),
        lambda: LensStudy().run(model, text),
        lambda: LensStudy().estimate(model, text[:1]),
        lambda: fit_tuned_lens(model, text, steps=1),
    ):
        with pytest.raises(InputError, match=TEXT):
            refused()
    assert text.tokenizer_digests == text[:2].tokenizer_digests == text.apart(6)[1].tokenizer_digests
    monkeypatch.setattr(tiny, "tokenizer", lambda: other)
    pairs = catalogue.word_pairs.__wrapped__()
    with pytest.raises(InputError, match="These word pairs were tokenized with another tokenizer"):
        Wic().run(model, pairs)


def test_prompts_by_hand_and_models_without_a_tokenizer_pass(other):
    by_hand = Prompt.from_positions([5, 6, 7, 8], [[1], [2]], [6, 7], 0)
    assert by_hand.tokenizer_digest == ""
    run(tiny.model("gpt2"), [by_hand])
    mute = tiny.fresh("gpt2")
    mute.tokenizer = None
    run(mute, catalogue.TASK.prompts(other, seed=0, samples=2))


def test_the_tokenizer_is_no_part_of_equality_or_of_digests(other):
    prompts = catalogue.prompts()
    bare = PromptSet(tuple(replace(prompt, tokenizer_digest="") for prompt in prompts), auxiliary=prompts.auxiliary)
    assert bare[0] == prompts[0]
    assert bare.digest() == prompts.digest()
    assert prompts[0].tokenizer_digest == tokenizer_digest(tiny.tokenizer())


def test_a_saved_context_remembers_its_tokenizer(other, tmp_path):
    model, prompts = tiny.fresh("gpt2"), catalogue.prompts()
    context = compress(model, prompts[0])
    context.save(tmp_path)
    saved = Context.load(tmp_path)
    assert saved.tokenizer_digest == tokenizer_digest(tiny.tokenizer())
    expected = saved.ask(model, prompts).label_logits
    model.tokenizer = other  # the same weights, and ids of another meaning
    bare = [replace(prompt, tokenizer_digest="") for prompt in prompts]
    with pytest.raises(InputError, match="This context was read from a prompt that was made with another tokenizer"):
        saved.ask(model, bare)
    facts = json.loads((tmp_path / "context.json").read_text())
    facts.pop("tokenizer_digest")  # as earlier versions wrote it
    (tmp_path / "context.json").write_text(json.dumps(facts))
    assert Context.load(tmp_path).ask(model, bare).label_logits.equal(expected)


def test_ids_beyond_the_tokenizer_are_numbers_in_brackets():
    tokenizer = tiny.tokenizer()
    assert token_text(tokenizer, len(tokenizer) - 1) == tokenizer.decode([len(tokenizer) - 1])
    assert token_text(tokenizer, len(tokenizer)) == f"[{len(tokenizer)}]"
    assert token_text(None, 7) == "[7]"
