"""What a token attends to before it is what its row of the attention pattern says."""

from __future__ import annotations

import pytest
import torch

from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.probes import LookBack
from tests import tiny

HEADS = ((2, 3), (0, 1), (2, 0))


@pytest.mark.parametrize("family", tiny.families)
def test_each_entry_is_one_of_the_pattern(family: str) -> None:
    model = tiny.model(family)
    texts = ["Review good film", "Question Answer Type of a Person in the World"]
    corpus = load_corpus(tiny.tokenizer(), texts, n_ctx=40, packing="documents", prepend_bos=True)
    reading = run(model, corpus, [probe := LookBack(HEADS, 4)], progress=None)[probe]
    assert list(reading.along("head")) == ["0.1", "2.0", "2.3"]
    for row, length in enumerate(corpus.lengths.tolist()):
        with torch.no_grad():
            _, cache = model.run_with_cache(corpus.tokens[row : row + 1, :length], prepend_bos=False)
        for i, (layer, head) in enumerate(sorted(HEADS)):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, head]
            for query in range(length):
                for back in range(4):
                    value = float(reading.values[row, i, query, back])
                    there = 0.0 if back > query else float(pattern[query, query - back])
                    assert value == pytest.approx(there, abs=1e-5)


def test_a_head_that_is_not_there_is_refused() -> None:
    text = load_corpus(tiny.tokenizer(), ["good film"], packing="documents", prepend_bos=True)
    with pytest.raises(InputError, match="There is no head"):
        run(tiny.model("gpt2"), text, [LookBack(((9, 0),))], progress=None)
    with pytest.raises(InputError, match="reach is 0"):
        LookBack(((0, 0),), 0)
