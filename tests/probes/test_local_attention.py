"""Shares of attention: they add up, position 0 is apart, and the authors' mean is a fifth of a mass."""

import pytest
import torch

from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.probes import LocalAttention
from mechicl.probes.local_attention import uniform_mass
from tests import tiny

TEXTS = ["Review good film and a long sentence", "Question Answer Type of a Person in the World", "abc"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)


def test_texts_of_one_token_have_no_previous_tokens():
    short = load_corpus(tiny.tokenizer(), ["a", "b"], n_ctx=40, packing="documents", prepend_bos=False)
    reading = run(tiny.model("gpt2"), short, [probe := LocalAttention((1, 5))])[probe]
    assert reading["mass_1"].isnan().all()


def same(ours, expected):
    torch.testing.assert_close(ours, expected.double(), atol=1e-6, rtol=1e-5, equal_nan=True)


def patterns(model, corpus, row, layer):
    _, cache = model.run_with_cache(corpus.tokens[row : row + 1, : corpus.lengths[row]])
    return cache[f"blocks.{layer}.attn.hook_pattern"][0]


@pytest.mark.parametrize("family", ["gpt2", "neo", "llama"])
def test_masses_are_means_of_single_entries(family, corpus):
    model, probe = tiny.model(family), LocalAttention((1, 3, 5))
    reading = run(model, corpus, [probe], batch_size=2)[probe]
    for row in range(len(corpus)):
        n = int(corpus.lengths[row])
        pattern = patterns(model, corpus, row, layer=1)
        for k in (1, 3, 5):
            queries = range(k + 1, n)
            sums = [pattern[:, q, q - k : q].sum(-1) for q in queries]
            same(reading[f"mass_{k}"][row, 1], torch.stack(sums).mean(0) if sums else torch.full((4,), torch.nan))
            at = [pattern[:, q, q - k] for q in queries]
            same(reading[f"at_{k}"][row, 1], torch.stack(at).mean(0) if at else torch.full((4,), torch.nan))
            assert reading.counts[f"queries_{k}"][row] == len(queries)
        same(reading["sink"][row, 1], pattern[:, 1:, 0].mean(-1))
        entries = [pattern[:, q, q - i] for i in range(1, 6) for q in range(i, n)]
        same(reading["pooled"][row, 1], torch.stack(entries).mean(0))
        assert reading.counts["entries"][row] == len(entries)


def test_everything_a_query_attends_to_is_itself_position_0_or_before(corpus):
    n = int(corpus.lengths.max())
    probe = LocalAttention((n - 2,))
    reading = run(tiny.model("gpt2"), corpus, [probe])[probe]
    longest = int(corpus.lengths.argmax())
    # The last query of the longest sequence alone has n - 2 tokens between position 0 and itself.
    pattern = patterns(tiny.model("gpt2"), corpus, longest, layer=0)
    same(reading[f"mass_{n - 2}"][longest, 0], 1 - pattern[:, -1, 0] - pattern[:, -1, -1])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_previous_five_itself_and_the_rest_are_all_attention(family, corpus):
    model, probe = tiny.model(family), LocalAttention((5,))
    reading = run(model, corpus, [probe])[probe]
    for row, length in enumerate(corpus.lengths.tolist()):
        rest = patterns(model, corpus, row, layer=1).tril(-6).sum((-2, -1))
        sums = [(reading[name] * reading.counts[reading.terms[name]])[row, 1] for name in ("pooled", "self")]
        same(sum(sums), length - 1 - rest)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_authors_pooled_mean_is_a_fifth_of_a_mass_and_what_its_first_queries_add(family, corpus):
    """Of T positions: (5 T - 15) pooled = T (mean mass on five tokens, position 0 among them) = (T - 6) mass_5 + what
    the first five queries pay to all that precedes them.
    """
    model, probe = tiny.model(family), LocalAttention((5,))
    reading = run(model, corpus, [probe])[probe]
    for row, length in enumerate(corpus.lengths.tolist()):
        if length <= 6:
            continue
        pattern = patterns(model, corpus, row, layer=1)
        pooled = (5 * length - 15) * reading["pooled"][row, 1]
        five = torch.stack([pattern[:, q, max(0, q - 5) : q].sum(-1) for q in range(length)]).mean(0)
        same(pooled, length * five)
        first = sum(1 - pattern[:, q, q] for q in range(1, 6))
        same(pooled, (length - 6) * reading["mass_5"][row, 1] + first)


def test_uniform_attention_is_the_null():
    lengths = torch.tensor([3, 12])
    pattern = torch.ones(12, 12).tril()
    pattern = (pattern / pattern.sum(-1, keepdim=True))[None, None].expand(2, 1, -1, -1)
    probe = LocalAttention((1, 2, 5))
    sums = probe._sums(pattern, lengths)
    for place, k in enumerate(probe.windows):
        torch.testing.assert_close(sums[:, 0, place], uniform_mass(k, lengths))


def test_a_window_of_nothing_is_refused():
    with pytest.raises(InputError, match="windows"):
        LocalAttention((0,))


def test_what_a_head_leaves_beside_position_0_is_divided_exactly():
    """A head that pays all but 1e-7 to position 0: its other weights still sum to 1, which 1 - sink in float32 hides."""
    weights = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tril() * 1e-7
    weights[..., 0] = 1
    pattern = weights / weights.sum(-1, keepdim=True)
    exact, sums = (LocalAttention((2,))._sums(one, torch.tensor([6])) for one in (pattern, pattern.float()))
    alone = [pattern[0, 0, q, q - 2 : q].sum() / pattern[0, 0, q, 1:].sum() for q in range(3, 6)]
    torch.testing.assert_close(exact[0, 0, 1], torch.stack(alone).sum())
    torch.testing.assert_close(sums[0, 0, 1].double(), exact[0, 0, 1], rtol=1e-5, atol=0)
