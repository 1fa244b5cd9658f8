"""Does a word's last token know the word? (section 5.1; the direct evidence that the paper does not give)

If early layers put the tokens of a word together, its identity must be readable at its last token, and not only from
that token. So words are compared that end in the same token, such as "could" and "would": a linear probe is to tell
which of them was read, from the residual at the last token. At the embedding it can only guess among the words of one
ending; contexts are all of the same length, so that position tells nothing either.

Two words in a row are carried forward as well (previous-token heads), so the same is asked of phrases of as many words
of one token each, such as "of the" and "in the", in equally many groups of the same sizes: what words have beyond
phrases is what is special to them.

Each word occurs equally often; probes (standardised logistic regression) learn on some contexts and are judged on
others, of other sequences of the text, five times over until every context was judged once. All of it is ours: there is
no `protocol="paper"`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus, pieces_of_ended_words
from mechicl.corpora.contexts import context_ends
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREY, add_curve, panels
from mechicl.hooks import run
from mechicl.probes import LastResidual
from mechicl.progress import progress
from mechicl.results import Result
from mechicl.studies.stages.ballots import contexts_of
from mechicl.studies.stages.drawing import titled, where
from mechicl.studies.stages.ensembles import linear_probe
from mechicl.studies.stages.sequences import accuracy_by_sequence, weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

Span = Literal["word", "phrase"]
_SPANS: tuple[Span, ...] = ("word", "phrase")
_NAMES: dict[Span, tuple[str, str]] = {"word": ("words", BLUE), "phrase": ("phrases of as many words", GREY)}
_FOLDS = 5


@dataclass(frozen=True)
class WordIdentity(Study):
    """Accuracy of a linear probe for which word ended: a row per sequence, point, length and kind of span.

    The share of that sequence's contexts that are told right, between 0 and 1.
    """

    pieces: Annotated[tuple[int, ...], Switch("Tokens of a word; each number is a panel.", min=2)] = (2, 3)
    occurrences: Annotated[int, Switch("Contexts of each word, one for each fold or more.", min=_FOLDS)] = 10
    classes: Annotated[int, Switch("Words to tell apart, at most.", min=2)] = 40
    context: Annotated[int, Switch("Tokens of each context, the word included.", min=1)] = 24
    draw_seed: Annotated[int, Switch("Seed of what is drawn.", min=0)] = 0

    name = "word-identity"
    title = "Which word ended here"
    shows = "A linear probe for which word ended, at its last token, layer by layer."
    source = "Stages of Inference, section 5.1; a test of our own"
    claim = "In the first layers the tokens of a word are put together into one representation."
    reads = "text"
    no_paper_protocol = "the authors do not measure it"
    batch_size = 32
    renamed = {"seed": "draw_seed"}

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # a probe learns from all of the text

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = [table for pieces in self.pieces if (table := self._cases(corpus, pieces)) is not None]
        if not chosen:
            raise InputError(
                f"{corpus.n_tokens} tokens of {corpus.source} hold no two words of {_or(self.pieces)} tokens that end "
                f"in the same token and occur {self.occurrences} times each (and as many phrases); take more text."
            )
        cases = pd.concat(chosen, ignore_index=True)
        texts = contexts_of(corpus, cases, self.context)
        residuals = run(model, texts, [probe := LastResidual()], batch_size=batch_size)[probe].values
        groups = cases.groupby(["pieces", "span"], sort=False)
        tables = []
        with progress("probes", len(groups) * residuals.shape[1]) as advance:
            for (pieces, span), rows in groups:
                words = rows["label"].nunique()
                facts: dict[str, Any] = {"span": span, "pieces": pieces, "words": words}
                for point in range(residuals.shape[1]):
                    right = held_out_correct(residuals[rows.index.tolist(), point], rows, self.draw_seed)
                    table = accuracy_by_sequence(rows["sequence"].to_numpy(), right)
                    tables.append(table.assign(**facts, point=point, chance=rows["ending"].nunique() / words))
                    advance(1)
        return pd.concat(tables, ignore_index=True)

    def _cases(self, corpus: TokenCorpus, pieces: int) -> pd.DataFrame | None:
        """Contexts of words and of phrases, in groups of equal sizes; None where there are too few."""
        generator = np.random.default_rng([self.draw_seed, pieces])
        found = {span: self._groups(occurrences(corpus, pieces, span, self.context)) for span in _SPANS}
        tables: dict[Span, list[pd.DataFrame]] = {span: [] for span in _SPANS}
        room = self.classes
        for word_group, phrase_group in zip(found["word"], found["phrase"], strict=False):
            size = min(len(word_group), len(phrase_group), room)
            if size < 2:
                break
            room -= size
            for into, group in ((tables["word"], word_group), (tables["phrase"], phrase_group)):
                into += [rows.sample(self.occurrences, random_state=generator) for rows in group[:size]]
        if not tables["word"]:
            return None
        parts = [pd.concat(rows).assign(span=span, pieces=pieces) for span, rows in tables.items()]
        return pd.concat(parts, ignore_index=True)

    def _groups(self, found: pd.DataFrame) -> list[list[pd.DataFrame]]:
        """Per ending, the occurrences of each word that is frequent enough; the ending with most words first."""
        groups: dict[int, list[pd.DataFrame]] = defaultdict(list)
        for _, rows in found.groupby("label"):
            if len(rows) >= self.occurrences:
                groups[int(rows["ending"].iloc[0])].append(rows)
        ordered = [sorted(group, key=len, reverse=True) for group in groups.values()]
        return sorted(ordered, key=len, reverse=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracy: model, span, pieces, metric, point, mean, low, high, n (sequences), seeds, chance, words."""
        by = ["model", "span", "pieces"]
        facts = table.groupby(by, as_index=False)[["chance", "words"]].first()
        return weighted_summary(table, {"accuracy": "contexts"}, by, "point").merge(facts, on=by)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        pieces = sorted(summary["pieces"].unique())
        figure = panels([f"of {n} tokens ({_words(summary, n)} words)" for n in pieces])
        for column, n in enumerate(pieces, start=1):
            for span, (name, colour) in _NAMES.items():
                rows = where(summary, pieces=n, span=span)
                add_curve(figure, rows, x="point", name=name, colour=colour, legend=column == 1, column=column)
            chance = where(summary, pieces=n)["chance"].iloc[0]
            figure.add_hline(
                chance, line={"dash": "dot", "color": GREY}, row=1, col=column,
                annotation_text="from the last token alone", annotation_position="bottom right",
            )  # fmt: skip
        figure.update_yaxes(range=[0, 1.02])
        told = [self.source, "linear probe at the last token, unseen contexts", TEXT_BAND]
        told += [f"too few words of {n} tokens" for n in self._lacking(summary)]
        return titled(
            figure, self, summary, "; ".join(told), x="residual before layer", y="accuracy", counts="point"
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for n, rows in summary.groupby("pieces"):
            curves = {span: own.set_index("point")["mean"] for span, own in rows.groupby("span")}
            word, phrase = curves["word"].to_numpy(), curves["phrase"].to_numpy()
            best = int(word.argmax())
            parts.append(
                f"Words of {n} tokens: {word[0]:.0%} from the last token's embedding (chance "
                f"{rows['chance'].iloc[0]:.0%}), most before layer {best} ({word[best]:.0%}), "
                f"{word[-1]:.0%} at the end; phrases {phrase[0]:.0%}, {phrase[best]:.0%} and {phrase[-1]:.0%} at the "
                "same places"
            )
        parts += [
            f"The text has too few words of {n} tokens that end alike and occur {self.occurrences} times each (or too "
            "few such phrases)"
            for n in self._lacking(summary)
        ]
        return ". ".join(parts) + "."

    def _lacking(self, summary: pd.DataFrame) -> list[int]:
        """Numbers of tokens that were asked for, and of which there are too few words."""
        return sorted(set(self.pieces) - set(summary["pieces"]))


def occurrences(corpus: TokenCorpus, pieces: int, span: Span, context: int) -> pd.DataFrame:
    """Every word of so many tokens, or phrase of so many words of one token: sequence, position, label, ending.

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
    return pd.DataFrame(
        {
            "sequence": row.numpy(), "position": position.numpy(), "ending": tokens[:, -1].numpy(),
            "label": [" ".join(map(str, ids)) for ids in tokens.tolist()],
        }
    )  # fmt: skip


def held_out_correct(activations: Float[Tensor, "case d"], cases: pd.DataFrame, seed: int) -> np.ndarray:
    """Whether each case's label was told by a probe that had learned from other sequences."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    probe = linear_probe(max_iter=2000)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    label = cases["label"].to_numpy()
    told = cross_val_predict(probe, activations.numpy(), label, groups=cases["sequence"].to_numpy(), cv=folds)
    return np.asarray(told == label)


def _words(summary: pd.DataFrame, pieces: int) -> int:
    return int(where(summary, pieces=pieces)["words"].iloc[0])


def _or(numbers: tuple[int, ...]) -> str:
    return " or ".join(map(str, numbers))
