"""Token sequences against those of the authors' runs."""

from pathlib import Path
from typing import Any

import pytest

from mechicl.corpora import load_corpus
from tests.conftest import parity_files, read_json


@pytest.mark.parametrize("path", parity_files("lesion"))
def test_documents_become_the_authors_tokens(path: Path, load_shared_model: Any) -> None:
    stored = read_json(path)
    tokenizer = load_shared_model(stored["meta"]["model"]).tokenizer
    n_ctx = len(stored["tokens"][0])
    corpus = load_corpus(tokenizer, stored["texts"], n_ctx=n_ctx, packing="documents", prepend_bos=True)
    assert corpus.tokens.tolist() == stored["tokens"]
