"""Classes scored by whole label words: exact log-probabilities, under every patch; refused where one token must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.engines.continuations import continuations
from mechicl.engines.prefix import run_shared
from mechicl.errors import InputError
from mechicl.hooks import Patch, run
from mechicl.patches import Drop, IsolateLabels, IsolateRandom, ReweightAnchors
from mechicl.probes import LabelAttention, SaliencyFlow
from mechicl.prompts import PromptSet, Query, Shot, Template, build_prompts
from mechicl.studies.label_words.isolation import Isolation
from mechicl.tasks import Task, load_task
from tests import tiny
from tests.prompts.vocabularies import byte_level

TEMPLATE = Template.parse("Review: {text}\nSentiment:{label}")
WORDS, NAMES = (" Negative", " Positive film", " Sad news"), ("a", "b", "c")
ROWS = [{"text": f"film {i}", "label": name} for i in range(4) for name in NAMES]
PATCHES: dict[str, list[Patch]] = {
    "none": [], "drop": [Drop(1)], "isolate": [IsolateLabels(layers=[0, 1], span="label")],
    "random": [IsolateRandom(layers=[0], seed=3)],
}  # fmt: skip


def prompts(score: str = "sequence", words: tuple[str, ...] = WORDS) -> PromptSet:
    contents = [([Shot("good", 0), Shot(text, 1), Shot("bad", 2)], Query(text * 2, 1)) for text in ("film", "a", "b c")]
    return PromptSet.of(build_prompts(tiny.tokenizer(), TEMPLATE, words, contents, class_names=NAMES, score=score))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_are_those_of_the_words_as_continuations(family: str) -> None:
    """Another engine, which encodes context and word as lm-evaluation-harness does."""
    model, asked = tiny.model(family), prompts()
    expected = continuations(model, [(one.string, word) for one in asked for word in WORDS], prepend_bos=False)
    seen = run(model, asked, [probe := LabelAttention()], progress=None)
    torch.testing.assert_close(seen.label_logits, expected.log_prob[0].reshape(3, 3), rtol=1e-5, atol=1e-5)
    reading = run(model, prompts("first"), [probe], progress=None)[probe]
    for name, values in reading.quantities.items():
        torch.testing.assert_close(seen[probe].quantities[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PATCHES)
def test_patches_act_on_the_prompt_as_they_do_without_the_word(name: str) -> None:
    """Token by token: each of a word's tokens is read at the end of the prompt with those before it, batch or not."""
    model, asked, patches = tiny.model("gpt2"), prompts(), PATCHES[name]
    scores = run(model, asked, patches=patches, progress=None, batch_size=3).label_logits
    for batch_size in (1, 2):
        again = run_shared(model, asked, patches=patches, progress=None, batch_size=batch_size).label_logits
        torch.testing.assert_close(again, scores, rtol=1e-5, atol=1e-5)
    net = mi.run(model, prompts("first", (" Negative", " Positive", " Sad")), patches=patches, progress=None)
    assert net.label_logits.shape == scores.shape
    one_token = prompts(words=(" Negative", " Positive", " Sad"))
    by_one = run(model, one_token, patches=patches, progress=None).label_logits
    torch.testing.assert_close(by_one.log_softmax(-1), net.label_logits.log_softmax(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "drop", "isolate"])
def test_scores_are_those_of_transformer_lens_with_hooks_by_hand(name: str) -> None:
    model = tiny.model("gpt2")

    def cut(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        scores = scores.clone()
        for p in prompt.label_positions:
            scores[:, :, p, :p] = -torch.inf
        return scores

    hooks = {
        "none": [], "isolate": [(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in (0, 1)],
        "drop": [(f"blocks.1.hook_{part}_out", lambda value, hook: torch.zeros_like(value)) for part in ("attn", "mlp")],
    }[name]  # fmt: skip
    asked = prompts()
    scores = run(model, asked, patches=PATCHES[name], progress=None).label_logits
    for row, prompt in enumerate(asked):
        for c, word in enumerate(asked.label_tokens):
            tokens = torch.tensor([[*prompt.tokens, *word]])
            with torch.no_grad():
                log_p = model.run_with_hooks(tokens, fwd_hooks=hooks, prepend_bos=False).log_softmax(-1)[0]
            steps = range(len(prompt) - 1, tokens.shape[1] - 1)
            expected = sum(float(log_p[i, tokens[0, i + 1]]) for i in steps)
            assert scores[row, c].item() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_words_of_one_token_rank_as_by_their_first_token() -> None:
    words = (" Negative", " Positive", " Sad")
    model = tiny.model("gpt2")
    first, whole = (run(model, prompts(score, words), progress=None) for score in ("first", "sequence"))
    assert torch.equal(first.predicted, whole.predicted)
    torch.testing.assert_close(first.label_probs, whole.label_probs, rtol=1e-4, atol=1e-6)
    assert bool((whole.label_logits < 0).all()), "log-probabilities"


def test_words_with_a_shared_beginning_can_be_scored_whole() -> None:
    words = (" Positive film", " Positive news", " Sad")
    with pytest.raises(InputError, match=r"begin with the same token.*score whole words with score='sequence'"):
        prompts("first", words)
    seen = run(tiny.model("gpt2"), prompts(words=words), progress=None)
    assert seen.label_logits.isfinite().all()
    with pytest.raises(InputError, match=r"' Positive' .a. and ' Positive film' .b. cannot be told apart"):
        prompts(words=(" Positive", " Positive film", " Sad"))


def test_a_first_token_without_meaning_is_refused_and_can_be_scored_whole() -> None:
    tokenizer = byte_level(" Negative")
    for word, reason in ((" Positive", "a space"), (" Ü", "a space"), ("好", "part of a character")):
        contents = [([Shot("good", 0)], Query("bad"))]
        with pytest.raises(InputError, match=f"no more than {reason}, .*score='sequence'"):
            build_prompts(tokenizer, TEMPLATE, [" Negative", word], contents, class_names=["a", "b"])
        (whole,) = build_prompts(
            tokenizer, TEMPLATE, [" Negative", word], contents, class_names=["a", "b"], score="sequence"
        )
        assert tokenizer.decode(whole.label_tokens[1]) == word


def test_what_needs_one_token_is_refused() -> None:
    model, asked = tiny.model("gpt2"), prompts()
    patch = ReweightAnchors(torch.zeros(1, 1, 3))
    for call in (
        lambda: run(model, asked, [SaliencyFlow()], progress=None),
        lambda: run(model, asked, patches=[patch], progress=None),
        lambda: mi.information_flow(model, asked),
        lambda: mi.engines.fit_reweighting(model, asked),
        lambda: mi.engines.read_context(model, asked[0]).ask(model, asked),
    ):
        with pytest.raises(InputError, match="whole label words; build them with score='first'"):
            call()


def test_every_task_offers_it_and_results_remember_it() -> None:
    task = Task("t", "Review: {text}\nSentiment:{label}", dict(zip(NAMES, WORDS, strict=True)), ROWS)
    whole = load_task(task, score="sequence")
    sets = [one.prompts(tiny.tokenizer(), samples=4) for one in (task, whole)]
    assert (whole.name, sets[1].origin["score"]) == ("t (whole words)", "sequence")
    assert "score" not in sets[0].origin
    assert sets[0].digest() != sets[1].digest()
    result = Isolation(n_layers=(1,)).run(tiny.model("gpt2"), sets[1])
    assert result.table["task"].unique().tolist() == ["t (whole words)"]
    topics = load_task("tiny-topics-2", score="sequence").prompts(mi.load_model("tiny-icl").tokenizer, samples=2)
    assert topics.label_tokens


def test_room_is_kept_for_the_rest_of_a_word() -> None:
    asked = prompts()
    extra = max(map(len, asked.label_tokens)) - 1
    assert extra > 0
    assert asked[0].n_read == len(asked[0]) + extra
    with pytest.raises(InputError, match="longer than the context"):
        build_prompts(
            tiny.tokenizer(), TEMPLATE, WORDS, [([], Query("film"))], class_names=NAMES, score="sequence",
            n_ctx=len(prompts()[0].tokens[asked[0].query_start :]) - 4,
        )  # fmt: skip
