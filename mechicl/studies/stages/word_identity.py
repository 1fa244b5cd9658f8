"""Does a word's last token encode the word? (section 5.1; direct evidence that the paper does not give)

If early layers merge the tokens of a word, its identity must be decodable at its last token, beyond what that token
itself says. So we compare words that end in the same token, such as "could" and "would": a linear probe predicts which
of them was read, from the residual at the last token. At the embedding it can only guess among the words with the same
ending; contexts have the same length, so position carries no information either.

Previous-token heads also carry information between any two adjacent words. As a control we therefore use phrases of
one-token words, such as "of the" and "in the", with equal length, number of groups and group sizes: only the excess of
words over phrases is specific to words.

A linear probe saturates: with ten examples of each word it also identifies phrases. So each context is also compared
with one example of every word, and the nearest (by cosine, with the common mean removed) is its answer; the comparison
of words with phrases uses this measure.

Each word occurs equally often. Linear probes (standardised logistic regression) are cross-validated in five folds of
different documents of the text. The experiment is our own, so there is no `protocol="paper"`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus, pieces_of_ended_words
from mechicl.corpora.contexts import context_ends
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREY
from mechicl.hooks import run
from mechicl.probes import LastResidual
from mechicl.progress import progress
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.parts import DOCUMENT
from mechicl.studies.stages.ballots import contexts_of
from mechicl.studies.stages.ensembles import linear_probe
from mechicl.studies.stages.sequences import accuracy_by_sequence, weighted_means, weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import of_documents, with_documents

Span = Literal["word", "phrase"]
_SPANS: tuple[Span, ...] = ("word", "phrase")
_NAMES: dict[Span, tuple[str, str]] = {
    "word": ("words", BLUE),
    "phrase": ("phrases of the same numbers of words", GREY),
}
FOLDS = 5
_EXAMPLES = 5
"""Number of random examples of every word, each used alone."""
KNOWN = Claim(
    "words-beyond-phrases", "Early layers merge a word's tokens, more than the tokens of a phrase.",
    "Stages of Inference, section 5.1; a test of our own",
    "accuracy of the nearest single example of a word in the first half of the layers", "of contexts",
    "phrases of the same numbers of words", 0.05,
)  # fmt: skip


@dataclass(frozen=True)
class WordIdentity(Study):
    """Accuracy of a linear probe for the word that ends: a row per sequence, point, length and kind of span.

    The share of that sequence's contexts that the probe predicts, between 0 and 1; `one_shot`: that the nearest single
    example predicts.
    """

    pieces: Annotated[tuple[int, ...], Switch("Tokens per word; one panel per number.", min=2)] = (2, 3)
    occurrences: Annotated[int, Switch("Contexts per word; at least one per fold.", min=FOLDS)] = 10
    classes: Annotated[int, Switch("Maximum number of words to distinguish.", min=2)] = 40
    context: Annotated[int, Switch("Tokens per context, including the word.", min=1)] = 24
    draw_seed: Annotated[int, Switch("Seed of all draws.", min=0)] = 0

    name = "word-identity"
    title = "Which word ended here"
    shows = "At which depth a linear probe identifies a word from its last token."
    source = "Stages of Inference, section 5.1; a test of our own"
    claim = "The first layers merge the tokens of a word into one representation."
    claims = (KNOWN,)
    reads = "text"
    no_paper_protocol = "the authors do not measure it"
    batch_size = 32
    renamed = {"seed": "draw_seed"}

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # a probe learns from the whole text

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = [table for pieces in self.pieces if (table := self._cases(corpus, pieces)) is not None]
        if not chosen:
            numbers = " or ".join(map(str, self.pieces))
            raise InputError(
                f"{corpus.n_tokens} tokens of {corpus.source} hold no two words of {numbers} tokens that end in the "
                f"same token and occur {self.occurrences} times each, in two documents or more (and the same number of "
                "phrases); use more text."
            )
        cases = pd.concat(chosen, ignore_index=True)
        texts = contexts_of(corpus, cases, self.context)
        residuals = run(model, texts, [probe := LastResidual()], batch_size=batch_size)[probe].values
        groups = cases.groupby(["pieces", "span"], sort=False)
        tables = []
        with progress("probes", len(groups) * residuals.shape[1]) as advance:
            for (pieces, span), rows in groups:
                words = rows["label"].nunique()
                chance = rows["ending"].nunique() / words
                facts: dict[str, Any] = {"span": span, "pieces": pieces, "words": words}
                for point in range(residuals.shape[1]):
                    vectors, sequences = residuals[rows.index.tolist(), point], rows["sequence"].to_numpy()
                    table = accuracy_by_sequence(sequences, held_out_correct(vectors, rows, self.draw_seed))
                    one = accuracy_by_sequence(sequences, nearest_correct(vectors, rows, self.draw_seed))["accuracy"]
                    tables.append(table.assign(one_shot=one, **facts, point=point, chance=chance))
                    advance(1)
        return pd.concat(tables, ignore_index=True)

    def _cases(self, corpus: TokenCorpus, pieces: int) -> pd.DataFrame | None:
        """Contexts of words and of phrases, in groups of equal sizes; None if there are too few."""
        generator = np.random.default_rng([self.draw_seed, pieces])
        groups = [self._groups(occurrences(corpus, pieces, span, self.context)) for span in _SPANS]
        tables: list[pd.DataFrame] = []
        room = self.classes
        for pair in zip(*groups, strict=False):
            size = min(*map(len, pair), room)
            if size < 2:
                break
            room -= size
            for span, group in zip(_SPANS, pair, strict=True):
                samples = [over_documents(rows, self.occurrences, generator) for rows in group[:size]]
                tables += [rows.assign(span=span, pieces=pieces) for rows in samples]
        return pd.concat(tables, ignore_index=True) if tables else None

    def _groups(self, cases: pd.DataFrame) -> list[list[pd.DataFrame]]:
        """Per ending, the occurrences of each sufficiently frequent word; the ending with most words first.

        A word of a single document has no example in another, so no answer could be right.
        """
        groups: dict[int, list[pd.DataFrame]] = defaultdict(list)
        for _, rows in cases.groupby("label"):
            if len(rows) >= self.occurrences and rows["document"].nunique() > 1:
                groups[int(rows["ending"].iloc[0])].append(rows)
        ordered = [sorted(group, key=len, reverse=True) for group in groups.values()]
        return sorted(ordered, key=len, reverse=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if "one_shot" not in table:
            return Evidence.nothing("An earlier version saved the table without single examples; run the study again.")
        early = with_documents(table[table["point"].between(1, max(1, int(table["point"].max()) // 2))])
        shares = weighted_means(early, {"one_shot": "contexts"}, [DOCUMENT, "span"])
        shares = shares.pivot(index=DOCUMENT, columns="span", values="one_shot").dropna()
        return of_documents(shares["word"], shares["phrase"].to_numpy())

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracy: model, span, pieces, metric, point, mean, low, high, n (sequences), seeds, chance, words."""
        by, weights = ["model", "span", "pieces"], {"accuracy": "contexts", "one_shot": "contexts"}
        facts = table.groupby(by, as_index=False)[["chance", "words"]].first()
        return weighted_summary(table, weights, by, "point").merge(facts, on=by)

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        panels = []
        for n, rows in summary.groupby("pieces"):
            curves = [
                Curve(metric, name + more, colour, dash, where={"pieces": n, "span": span})
                for metric, more, dash in (("accuracy", "", "solid"), ("one_shot", ", nearest example", "dash"))
                for span, (name, colour) in _NAMES.items()
            ]
            chance = Level(rows["chance"].iloc[0], GREY, "from the last token alone")
            panels.append(Panel(f"of {n} tokens ({rows['words'].iloc[0]} words)", [*curves, chance]))
        return Drawing(
            summary, panels, x="point", x_title="residual before layer", y_title="accuracy", common=True,
            y_axis={"range": [0, 1.02]},
            note="; ".join(["linear probe at the last token, held-out contexts", TEXT_BAND, *self._lacking(summary)]),
        )  # fmt: skip

    def remarks(self, result: Result, rows: pd.DataFrame) -> list[str]:
        return [*super().remarks(result, rows), *(f"The text has {lack}." for lack in self._lacking(rows))]

    def details(self, result: Result) -> list[str]:
        summary = result.summary()
        parts = super().details(result)
        for n, rows in where(summary, metric="one_shot").groupby("pieces"):
            words, phrases = (where(rows, span=span).set_index("point")["mean"] for span in _SPANS)
            parts.append(
                f"The nearest example names words of {n} tokens in {words.iloc[1:].mean():.0%} of contexts and phrases "
                f"in {phrases.iloc[1:].mean():.0%}, mean over layers; at the embedding {words.iloc[0]:.0%} and "
                f"{phrases.iloc[0]:.0%} (chance {rows['chance'].iloc[0]:.0%})."
            )
        return parts

    def _lacking(self, rows: pd.DataFrame) -> list[str]:
        """The lengths of which the text has too few words, as text; `rows` are of the table or its summary."""
        return [f"too few words of {n} tokens" for n in sorted(set(self.pieces) - set(rows["pieces"]))]


def over_documents(rows: pd.DataFrame, n: int, generator: np.random.Generator) -> pd.DataFrame:
    """Random rows of as many documents as possible: no document gives a second one before all have given one."""
    mixed = rows.sample(frac=1, random_state=generator)
    return mixed.iloc[mixed.groupby("document").cumcount().argsort(kind="stable")[:n]]


def occurrences(corpus: TokenCorpus, pieces: int, span: Span, context: int) -> pd.DataFrame:
    """Every word of `n` tokens, or phrase of `n` one-token words: document, sequence, position, label, ending.

    `position` is that of its last token, before which there is room for the context; `ending` is that token.
    """
    ended = pieces_of_ended_words(corpus.words)
    if span == "word":
        ends = ended == pieces
    else:
        ends = ended == 1
        for back in range(1, pieces):
            ends[:, back:] &= ended[:, :-back] == 1
            ends[:, :back] = False
    row, position = (ends & context_ends(corpus, max(context, pieces))).nonzero(as_tuple=True)
    tokens = corpus.tokens[row[:, None], position[:, None] + torch.arange(1 - pieces, 1)]
    labels = [" ".join(map(str, ids)) for ids in tokens.tolist()]
    found = {
        "sequence": row,
        "document": corpus.documents[row, position],
        "position": position,
        "ending": tokens[:, -1],
    }
    return pd.DataFrame({**found, "label": labels})


def held_out_correct(activations: Float[Tensor, "case d"], cases: pd.DataFrame, seed: int) -> np.ndarray:
    """Whether a probe fitted on other documents predicts each case's label.

    Raises:
        InputError: the cases lie in too few documents.
    """
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    label, groups = cases["label"].to_numpy(), cases["document"].to_numpy()
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    enough = (n := len(np.unique(groups))) >= FOLDS
    splits = list(folds.split(activations, label, groups)) if enough else []
    if not enough or any(len(np.unique(label[fitted])) < 2 for fitted, _ in splits):
        raise InputError(f"A probe of words needs more than the {n} documents that hold them; use more text.")
    predicted = cross_val_predict(linear_probe(max_iter=2000), activations.numpy(), label, cv=splits)
    return np.asarray(predicted == label)


def nearest_correct(activations: Float[Tensor, "case d"], cases: pd.DataFrame, seed: int) -> np.ndarray:
    """How often each case is nearest to its own label, given one example per label from other documents."""
    label, document = (pd.factorize(cases[name])[0] for name in ("label", "document"))
    centred = torch.nn.functional.normalize(activations.double() - activations.double().mean(0), dim=-1)
    similar = (centred @ centred.T).numpy()
    generator, own = np.random.default_rng(seed), np.zeros(len(label))
    for _ in range(_EXAMPLES):
        lot = np.where(document[:, None] == document, -1.0, generator.random(similar.shape))
        found = np.full((label.max() + 1, len(label)), -np.inf)
        for one in range(label.max() + 1):
            members = np.flatnonzero(label == one)
            chosen = lot[:, members].argmax(1)
            at = np.arange(len(label)), members[chosen]
            found[one] = np.where(lot[at] >= 0, similar[at], -np.inf)
        own += found.argmax(0) == label
    return own / _EXAMPLES
