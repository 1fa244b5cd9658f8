"""Words in their contexts, as one token and spelt in several, and how close their residuals are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl import shipped
from mechicl.corpora import TokenCorpus
from mechicl.corpora.spellings import Spelling, in_context, sequences
from mechicl.hooks import Patch, run
from mechicl.metrics import kl_divergence
from mechicl.models import hooked
from mechicl.models.tokenizers import encode_texts
from mechicl.probes import LastResidual

CONTROLS = ("last piece alone", "another word's pieces", "letters shuffled")
_CARRIERS = ("In other words,", "What they had in mind was")
"""Text before phrases and words; each is compared across the two."""
_AS_FREQUENT = 5
"""Number of words of other pairs, nearest in frequency, that each phrase is compared with."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, and words in their contexts."""

    model: Any
    corpus: TokenCorpus
    spellings: list[Spelling]
    context: int
    batch_size: int

    @property
    def n_layers(self) -> int:
        return hooked(self.model).sizes.n_layers

    def whole(self, occurrence: int) -> TokenCorpus:
        """Every word as its own token, at its first or second place in the text."""
        return self._read(occurrence, [(spelling.token,) for spelling in self.spellings])

    def _read(self, occurrence: int, endings: list[tuple[int, ...]]) -> TokenCorpus:
        places = [spelling.places[occurrence] for spelling in self.spellings]
        return in_context(self.corpus, places, endings, context=self.context)

    def spelt(self, pieces: int, generator: np.random.Generator) -> dict[str, TokenCorpus]:
        """Every word spelt in `pieces` tokens, and the controls, at its first place in the text."""
        own = [spelling.pieces[pieces] for spelling in self.spellings]
        others = [own[i - 1] for i in range(len(own))]  # in random order
        endings = {
            "spelling": own,
            "last piece alone": [ids[-1:] for ids in own],
            "another word's pieces": [(*other[:-1], ids[-1]) for other, ids in zip(others, own, strict=True)],
            "letters shuffled": [
                (*self._shuffled(spelling.word, ids, generator), ids[-1])
                for spelling, ids in zip(self.spellings, own, strict=True)
            ],
        }
        return {kind: self._read(0, ids) for kind, ids in endings.items()}

    def _shuffled(self, word: str, ids: tuple[int, ...], generator: np.random.Generator) -> tuple[int, ...]:
        """Tokens for the first pieces' letters in another order."""
        tokenizer = self.corpus.tokenizer
        letters = word[: len(word) - len(tokenizer.convert_ids_to_tokens(ids[-1]))]
        orders = [generator.permutation(len(letters)) for _ in range(8)]
        text = next((t for o in orders if (t := "".join(letters[i] for i in o)) != letters), letters[::-1])
        return tuple(encode_texts(tokenizer, [" " + text])["input_ids"][0])

    def residuals(
        self, corpus: TokenCorpus, patches: list[Patch] | None = None, point: int | None = None
    ) -> Float[Tensor, "word point d_model"]:
        """Residuals at the last token, at every point or at one."""
        probe = LastResidual(None if point is None else (point,))
        return run(self.model, corpus, [probe], patches or [], batch_size=self.batch_size)[probe].values

    @torch.no_grad()
    def divergence(self, p: Float[Tensor, "word d_model"], q: Float[Tensor, "word d_model"]) -> Float[Tensor, " word"]:
        """KL of the next token in nats, computed from last residuals."""
        net, parts = hooked(self.model), []
        for rows in torch.split(torch.arange(len(p)), self.batch_size):
            logits = (net.lens(side[rows].to(net.device, net.dtype)) for side in (p, q))
            parts.append(kl_divergence(*logits).cpu())
        return torch.cat(parts)

    def retrieval(self, residuals: Tensor, prototypes: Tensor, *, kind: str, pieces: int) -> Iterator[pd.DataFrame]:
        """Rows of retrieval and cosine at every point."""
        points = range(residuals.shape[1])
        for quantity, values in zip(("retrieval", "cosine"), nearest(residuals, prototypes), strict=True):
            yield self.rows(quantity, values, points, kind=kind, pieces=pieces)

    def rows(
        self, quantity: str, values: Float[Tensor, "word point"], points: Sequence[int], *, kind: str, pieces: int,
        names: Sequence[str] | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """A row per point and word (or other item with these names)."""
        words = [spelling.word for spelling in self.spellings] if names is None else list(names)
        columns = {"word": np.repeat(words, len(points)), "point": np.tile(points, len(words))}
        facts: dict[str, Any] = {"kind": kind, "pieces": pieces, "quantity": quantity}
        return pd.DataFrame({**columns, "value": values.flatten().double().numpy()}).assign(**facts)

    def meanings(self, least: int) -> tuple[list[str], dict[str, Float[Tensor, "pair point"]]]:
        """Names of pairs, and cosines of phrases to words: of the same meaning, and frequency-matched ones of others.

        Empty if the vocabulary has fewer than `least` of the shipped pairs.
        """
        names, phrases, words = self._pairs()
        if len(names) < least:
            return [], {}
        after_phrase, after_word = self._carried(phrases), self._carried(words)
        pairs = zip(after_phrase, reversed(after_word), strict=True)  # a phrase and its word are in different sentences
        cosine = torch.stack([nearness(phrase, word) for phrase, word in pairs]).mean(0)
        own, others = torch.arange(len(names)), self._as_frequent([ids[0] for ids in words])
        return names, {"same meaning": cosine[own, own], "as frequent": cosine[own[:, None], others].mean(1)}

    def _pairs(self) -> tuple[list[str], list[list[int]], list[list[int]]]:
        """Shipped phrases of several tokens whose word is one token: their names, and the ids of both."""
        given = pd.read_csv(Path(shipped.__file__).parent / "phrases.csv").to_numpy().tolist()
        phrases, words = (
            encode_texts(self.corpus.tokenizer, [" " + pair[i] for pair in given])["input_ids"] for i in (0, 1)
        )
        kept = [i for i in range(len(given)) if len(words[i]) == 1 and len(phrases[i]) > 1]
        names = [" = ".join(given[i]) for i in kept]
        return names, [phrases[i] for i in kept], [words[i] for i in kept]

    def _carried(self, texts: list[list[int]]) -> list[Float[Tensor, "text point d_model"]]:
        """Residuals at the end of each text, after each carrier sentence."""
        ends = []
        for carrier in encode_texts(self.corpus.tokenizer, list(_CARRIERS))["input_ids"]:
            start = [int(self.corpus.tokens[0, 0])] if self.corpus.prepend_bos else []
            rows = [[*start, *carrier, *ids] for ids in texts]
            ends.append(self.residuals(sequences(self.corpus, rows, [len(ids) for ids in texts], kind="phrases")))
        return ends

    def _as_frequent(self, tokens: list[int]) -> Tensor:
        """For each word, the indices of the other words that are nearest to it in frequency in the text."""
        counts = torch.bincount(self.corpus.tokens.flatten(), minlength=max(tokens) + 1)[tokens].float()
        apart = (counts[:, None] - counts).abs()
        apart.fill_diagonal_(torch.inf)
        return apart.argsort(dim=1, stable=True)[:, :_AS_FREQUENT]


@dataclass(frozen=True, eq=False)
class Put(Patch):
    """Replace the residual before a layer, at the last token of each sequence, by another."""

    layer: int
    tokens: Tensor
    """Tokens of all sequences, by which those of a batch are identified."""
    residuals: Tensor

    def hooks(self, model: Any, batch: Any) -> list[Any]:
        width = batch.tokens.shape[1]
        same = (batch.tokens[:, None] == self.tokens[None, :, :width].to(batch.device)).all(-1)
        rows, place = same.float().argmax(1), torch.arange(len(batch), device=batch.device)
        last = batch.lengths.to(batch.device) - 1

        def put(value: Tensor, hook: Any) -> Tensor:
            return value.index_put((place, last), self.residuals.to(value)[rows])

        return [(f"blocks.{self.layer}.hook_resid_pre", put)]


def nearness(
    queries: Float[Tensor, "word point d"], keys: Float[Tensor, "word point d"]
) -> Float[Tensor, "word key point"]:
    """Cosines at each point, both sides centred over words."""
    sides = (side - side.mean(0) for side in (queries.double(), keys.double()))
    q, k = (torch.nn.functional.normalize(side, dim=-1).transpose(0, 1) for side in sides)
    return (q @ k.transpose(1, 2)).permute(1, 2, 0)


def nearest(
    queries: Float[Tensor, "word point d"], keys: Float[Tensor, "word point d"]
) -> tuple[Float[Tensor, "word point"], Float[Tensor, "word point"]]:
    """Whether each query is nearest to its own key (1 or 0), and the cosine of the two."""
    cosine = nearness(queries, keys)
    own = torch.arange(len(cosine))
    hits = cosine.argmax(1) == own[:, None]
    return hits.double(), cosine[own, own]
