"""Contexts followed by a token of a class, and the same number that are not, matched in other respects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mechicl.corpora import TokenCorpus
from mechicl.corpora.contexts import context_ends, contexts
from mechicl.errors import InputError
from mechicl.mlp_neurons.token_classes import TokenClass, class_members, describe, other_forms

LEAST = 60
"""Least number of pairs of contexts for a study of linear probes."""
_SEQUENCES = 4
"""Least number of sequences that hold them: two to choose ensembles on, and two to judge them."""
_DOCUMENTS = 8
"""With fewer documents, folds divide sequences."""


def ballots(
    corpus: TokenCorpus, token_class: TokenClass, d_vocab: int, *, context: int, most: int, seed: int
) -> pd.DataFrame:
    """A balanced set: sequence, position (where the context ends, before the token), label, matched_by, apart, fold.

    If the class is a suffix and the tokenizer has other forms of the same stems, contexts before " going" are paired
    with contexts before " go" or " goes", stem by stem (`matched_by` "stem"). Otherwise, or if these are too few,
    paired contexts end in the same token and continue inside or outside the class ("last token"). Fold 0 is for
    selecting and fitting, fold 1 for testing; each document of the text (`apart`; each sequence, if there are fewer
    than eight documents) is in only one of them.

    Raises:
        InputError: there are fewer than 60 pairs of either kind.
    """
    generator = np.random.default_rng(seed)
    members = class_members(corpus.tokenizer, token_class, d_vocab)
    candidates = _followed(corpus, members, context)
    tables = {"last token": _balanced(candidates.assign(group=candidates["last"]), generator)}
    if isinstance(token_class, str) and token_class.startswith("-"):
        stems = candidates["token"].map(other_forms(corpus.tokenizer, token_class, d_vocab))
        tables["stem"] = _balanced(candidates.assign(group=stems)[stems.notna()], generator)
    matched_by = "stem" if len(tables.get("stem", ())) >= 2 * LEAST else "last token"
    table = tables[matched_by]
    if len(table) < 2 * LEAST:
        raise InputError(
            f"{corpus.n_tokens} tokens of {corpus.source} hold {len(table) // 2} pairs of contexts of {context} tokens "
            f"that go on in a token of the class {describe(token_class)}, or in another that is matched with it; at "
            f"least {LEAST} are needed: use more text, or a more frequent class."
        )
    pairs = generator.permutation(table["pair"].unique())[:most]
    table = table[table["pair"].isin(pairs)].reset_index(drop=True)
    sequences = table["sequence"].nunique()
    if sequences < _SEQUENCES:
        raise InputError(
            f"The pairs of contexts lie in {sequences} sequences, and ensembles are chosen on some and judged on "
            f"others: at least {_SEQUENCES} are needed; use more text, or shorter sequences."
        )
    table = table.assign(matched_by=matched_by, apart=_apart(corpus, table))
    units = generator.permutation(table["apart"].unique())
    return table.assign(fold=table["apart"].isin(units[: len(units) // 2]).astype(int))


def _apart(corpus: TokenCorpus, table: pd.DataFrame) -> np.ndarray:
    """What folds divide: documents, which share words and subjects; sequences if there are too few documents."""
    documents = corpus.documents[table["sequence"].to_numpy(), table["position"].to_numpy()].numpy()
    return documents if len(np.unique(documents)) >= _DOCUMENTS else table["sequence"].to_numpy()


def _followed(corpus: TokenCorpus, members: torch.Tensor, context: int) -> pd.DataFrame:
    """Every context whose next token is in the same document: its end, its last token, the next token, its class."""
    documents = corpus.documents
    ends = context_ends(corpus, context)[:, :-1] & (documents[:, 1:] == documents[:, :-1])
    row, position = ends.nonzero(as_tuple=True)
    token = corpus.tokens[row, position + 1]
    columns = {
        "sequence": row, "position": position, "last": corpus.tokens[row, position], "token": token,
        "label": members[token],
    }  # fmt: skip
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


def _balanced(candidates: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """In each group, random pairs of a context of the class and another."""
    parts: list[pd.DataFrame] = []
    for _, rows in candidates.groupby("group"):
        inside, outside = rows[rows["label"]], rows[~rows["label"]]
        n = min(len(inside), len(outside))
        if n:
            first = sum(len(part) for part in parts)
            pair = np.arange(first, first + n)
            parts += [side.sample(n, random_state=generator).assign(pair=pair) for side in (inside, outside)]
    return pd.concat(parts, ignore_index=True) if parts else candidates.iloc[:0].assign(pair=0)


def contexts_of(corpus: TokenCorpus, table: pd.DataFrame, length: int) -> TokenCorpus:
    """The contexts that end at a table's sequences and positions, in its order."""
    return contexts(corpus, torch.tensor(table[["sequence", "position"]].to_numpy()), length)
