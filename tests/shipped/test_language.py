"""The language: words whose topic lies in no syllable, fresh mappings, held-out texts, an exact entropy."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from benchmarks.tiny_icl import classification as cl
from benchmarks.tiny_icl import grammar as training
from benchmarks.tiny_icl import tokens
from mechicl.shipped import grammar as rt
from mechicl.shipped import lexicon as lex
from mechicl.shipped import texts


def test_no_syllable_tells_a_topic() -> None:
    def occurrences(topic: tuple[tuple[str, ...], ...]) -> Counter[tuple[str, str]]:
        return Counter(
            (place, syllable)
            for word in topic
            for place, syllable in (("first", word[0]), ("last", word[-1]), *(("middle", m) for m in word[1:-1]))
        )

    first, *others = [occurrences(topic) for topic in lex.lexicon().words]
    assert all(other == first for other in others)
    assert set(first.values()) == {1}


def test_words_are_two_or_three_syllables_and_all_different() -> None:
    words = [word for topic in lex.lexicon().words for word in topic]
    assert {len(word) for word in words} == {2, 3}
    assert len(set(words)) == len(words) == lex.TOPICS * lex.WORDS_PER_TOPIC


def test_no_word_is_the_beginning_of_another() -> None:
    spelled = [tuple(tokens.ids(word)) for word in (*lex.FUNCTION_WORDS, *lex.LABEL_WORDS)]
    spelled += [tuple(tokens.word_ids(word)) for topic in lex.lexicon().words for word in topic]
    for a, b in itertools.permutations(spelled, 2):
        assert b[: len(a)] != a


@pytest.mark.parametrize("template", lex.TEMPLATES)
def test_ids_of_a_sequence_are_those_of_its_text(template: str) -> None:
    tokenizer = tokens.fast_tokenizer()
    shape = cl.Shape(templates=(template,))
    for split in ("train", "test"):
        sequence = cl.draw_sequence(3, 2, 1, shape, split, np.random.default_rng(0))
        text = tokenizer.decode(sequence.ids)
        assert tokenizer(text).input_ids == sequence.ids
        answers = [block.rpartition(":")[2] for block in _blocks(text, template)]
        assert [tokenizer(a).input_ids for a in answers] == [[sequence.labels[c]] for c in sequence.classes]
        assert [sequence.ids[p] for p in sequence.label_positions] == [sequence.labels[c] for c in sequence.classes]


def _blocks(text: str, template: str) -> list[str]:
    lines = text.split("\n")
    blocks = ["\n".join(lines[i : i + 2]) for i in range(0, len(lines), 2)]
    before, after = template.split("{text}")[0], template.split("{text}")[1].removesuffix("{label}")
    assert all(block.startswith(before) and after in block for block in blocks)
    return blocks


def test_texts_of_the_two_splits_share_no_word_combination() -> None:
    seen = {}
    for split in ("train", "test"):
        pairs = texts.examples(split, range(lex.TOPICS), 600, seed=0)
        seen[split] = {tuple(w for w in text.split() if " " + w not in texts.FILLERS) for text, _ in pairs}
    assert seen["train"].isdisjoint(seen["test"])
    assert min(map(len, seen.values())) > 400


def test_examples_are_balanced_reproducible_and_about_their_topic() -> None:
    drawn = list(texts.examples("test", [3, 7], 10, seed=5))
    assert drawn == list(texts.examples("test", [3, 7], 10, seed=5)) != list(texts.examples("test", [3, 7], 10, seed=6))
    assert [name for _, name in drawn] == [texts.topic_name(3), texts.topic_name(7)] * 5
    own = {word.strip() for word in lex.lexicon().spelled(3)}
    assert all(own & set(text.split()) for text, _ in drawn[::2])


def test_mappings_are_drawn_afresh_and_held_out_ones_never_trained_on() -> None:
    rng = np.random.default_rng(0)
    drawn = [texts.draw_mapping(2, "train", rng) for _ in range(500)]
    assert all(texts.split_of_mapping(*mapping) == "train" for mapping in drawn)
    assert len({frozenset(zip(*mapping, strict=True)) for mapping in drawn}) > 450
    labels_of_first = {label for topics, labels in drawn for t, label in zip(topics, labels, strict=True) if t == 0}
    assert len(labels_of_first) == len(lex.LABEL_WORDS)


def test_answers_are_labels_whose_class_has_been_shown() -> None:
    batch = cl.draw_batch(5, 3, 8, cl.Shape(), np.random.default_rng(0))
    labels = tokens.ids(*lex.LABEL_WORDS)
    for row, is_answer in zip(batch.tokens, batch.is_answer, strict=True):
        assert is_answer.sum() == 5
        assert all(row[i] in labels and row[i] in row[:i] for i in np.flatnonzero(is_answer))


def test_running_text_is_what_its_ids_say() -> None:
    words = rt.sample_words(rt.grammar(), 3, 50, np.random.default_rng([4, 0, 0]))
    rows = training.token_rows(words, 60)
    tokenizer = tokens.fast_tokenizer()
    for text, row in zip(rt.running_text(3, 50, seed=4), rows, strict=True):
        assert tokenizer(tokens.BOS + text).input_ids[:60] == row.tolist()


def test_exact_entropy_agrees_with_summing_over_all_hidden_paths() -> None:
    rng = np.random.default_rng(0)
    places, topics, words = 3, 2, 4
    g = rt.Grammar(
        start=0,
        move=rng.dirichlet(np.ones(places), places),
        emit=rng.dirichlet(np.ones(words), (places, topics)),
        turn=rng.dirichlet(np.ones(topics), (places, topics)),
        prior=rng.dirichlet(np.ones(topics)),
        words=("a", "ba", "bca", "bcb"),
    )
    spelling = ((0,), (1, 0), (1, 2, 0), (1, 2, 1))
    drawn = rt.sample_words(g, 6, 4, rng)
    for document, surprisal in zip(drawn, training.surprisal(g, spelling, drawn), strict=True):
        spelled = [t for w in document for t in spelling[w]]
        logs = [np.log(_probability_of_beginning(g, spelling, tuple(spelled[:n]))) for n in range(len(spelled) + 1)]
        np.testing.assert_allclose(surprisal, -np.diff(logs), atol=1e-10)


def _probability_of_beginning(
    g: rt.Grammar, spelling: tuple[tuple[int, ...], ...], beginning: tuple[int, ...]
) -> float:
    """That a document begins with these tokens: every way to choose states and words, one after another."""

    def follow(place: int, topic: int, left: tuple[int, ...]) -> float:
        if not left:
            return 1.0
        total = 0.0
        for t, p in itertools.product(range(len(g.prior)), range(len(g.move))):
            for word, spelled in enumerate(spelling):
                n = min(len(left), len(spelled))
                if left[:n] == spelled[:n]:
                    chance = g.turn[place, topic, t] * g.move[place, p] * g.emit[p, t, word]
                    total += chance * follow(p, t, left[len(spelled) :])
        return total

    return sum(g.prior[t] * follow(g.start, t, beginning) for t in range(len(g.prior)))
