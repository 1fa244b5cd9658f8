"""Conversations and whole label words on the real model, against plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import mechicl as mi
from tests.prompts.vocabularies import covered
from tests.real import reference
from tests.real.conftest import Real

pytestmark = pytest.mark.xdist_group("real")
WORDS = {"negative": " really not good at all", "positive": " rather good, I would say"}


def test_a_conversation_has_the_tokens_of_transformers(real: Real, agree: Callable[..., None]) -> None:
    tokenizer = real.model.tokenizer
    prompts = replace(real.task, chat=True).prompts(tokenizer, samples=4, shots=2)
    for prompt in prompts:
        assert list(prompt.tokens) == tokenizer(prompt.string, add_special_tokens=False)["input_ids"]
        assert prompt.string.startswith("<|im_start|>system\nYou are a helpful AI assistant")
        assert prompt.string.endswith("\nSentiment:<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.tokens.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 1 + 2 * 4 + 2
        assert [covered(prompt, one.label) for one in prompt.demonstrations] == [
            prompt.label_words[c] for c in prompt.anchor_classes
        ]
    theirs = reference.logits_at_q(real.hf, prompts[0])[list(prompts.label_ids)].log_softmax(-1)
    ours = mi.run(real.model, prompts[:1], progress=None).label_logits[0].log_softmax(-1)
    agree("label logits of a conversation", ours, theirs, within=1e-3, mistaken=theirs.flip(0))


def test_whole_label_words_have_the_probability_of_transformers(real: Real, agree: Callable[..., None]) -> None:
    prompts = replace(real.task, label_words=WORDS, score="sequence").prompts(real.model.tokenizer, samples=3)
    ours = mi.run(real.model, prompts, progress=None).label_logits
    theirs, first = torch.zeros(len(prompts), 2), torch.zeros(len(prompts), 2)
    for row, prompt in enumerate(prompts):
        for c, word in enumerate(WORDS.values()):
            tokens = real.model.tokenizer(prompt.string + word)["input_ids"]
            with torch.no_grad():
                log_p = real.hf(torch.tensor([tokens])).logits[0].log_softmax(-1)
            steps = [float(log_p[i - 1, tokens[i]]) for i in range(len(prompt), len(tokens))]
            assert len(steps) > 3
            theirs[row, c], first[row, c] = sum(steps), steps[0]
    agree("log-probabilities of label words", ours, theirs, within=2e-4, mistaken=first)
