"""Part of speech: at which depth does a word's representation encode its role in the sentence? (section 5.2)

*Stages of Inference* shows feature engineering with one task, Word in Context. Part of speech is another, simpler one.
A linear probe predicts it from the residual at the word's last token, which depends only on the word and the tokens
before it.

A linear probe may just memorise words, since most words have one part of speech. So there is a *control task* (Hewitt
and Liang 2019): every word gets a fixed random part of speech, drawn with the observed frequencies, which a probe can
predict only by knowing the word. Accuracy less the control's is selectivity. A further baseline is each word's most
frequent part of speech in the training text.

Tags are TextBlob's (extra `tags`), for English text and with errors. Linear probes are standardised logistic
regressions, cross-validated over documents in three folds. The experiment is our own, so there is no
`protocol="paper"`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.corpora.contexts import context_ends
from mechicl.corpora.parts_of_speech import tagged_words
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, INK
from mechicl.hooks import run
from mechicl.probes import LastResidual
from mechicl.progress import progress
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.ballots import contexts_of
from mechicl.studies.stages.ensembles import linear_probe
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND, plateau_in_words
from mechicl.studies.twins import by_document, by_layer, of_documents

_SOURCE, _NULL = "Stages of Inference, section 5.2; a test of our own", "the same of the control task"
_QUANTITY = "accuracy in the middle half of the depths, minus that in the {} quarter"
RISES = Claim(
    "part-of-speech-rises",
    "A linear probe predicts a word's part of speech, beyond what the word itself predicts, better from middle layers "
    "than from the first.",
    _SOURCE, _QUANTITY.format("first"), "of words", _NULL, 0.02,
)  # fmt: skip
DECLINES = Claim(
    "part-of-speech-declines",
    "A linear probe predicts a word's part of speech, beyond what the word itself predicts, better from middle layers "
    "than from the last.",
    _SOURCE, _QUANTITY.format("last"), "of words", _NULL, 0.02,
)  # fmt: skip
_LEAST = 100
"""Least number of words for a probe."""
_FOLDS = 3
_STRENGTH = 0.01
"""Inverse of the L2 penalty, which is strong because a probe that can memorise words is not selective."""
_ANSWERS = ("probe", "control", "by_word", "majority")


@dataclass(frozen=True)
class PartOfSpeech(Study):
    """Shares of each sequence's words whose part of speech is predicted correctly: a row per sequence and point.

    `probe`, `control` (the control task), `by_word` (the word's most frequent part of speech in the training text) and
    `majority` (the most frequent one overall) are shares of `words` words.
    """

    words: Annotated[int, Switch("Maximum number of words, drawn at random from the text.", min=_LEAST)] = 1000
    context: Annotated[int, Switch("Tokens per context, including the word's own.", min=2)] = 24
    draw_seed: Annotated[int, Switch("Seed of words, folds and control task.", min=0)] = 0

    name = "part-of-speech"
    title = "Part of speech"
    shows = "At which depth a linear probe predicts a word's part of speech, against a control task."
    source = _SOURCE
    claim = "The first half of the model computes features of words: linear-probe accuracy rises, peaks and declines."
    claims = (RISES, DECLINES)
    reads = "text"
    no_paper_protocol = "the authors do not measure it"
    batch_size = 32

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # a probe learns from the whole text

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        cases = self.cases(corpus)
        texts = contexts_of(corpus, cases, self.context)
        residuals = run(model, texts, [probe := LastResidual()], batch_size=batch_size)[probe].values
        given = {"probe": cases["tag"], "control": control_task(cases, self.draw_seed)}
        labels = {name: column.to_numpy(str) for name, column in given.items()}
        folds = [cases["fold"].to_numpy() == fold for fold in range(_FOLDS)]
        by_word, majority = frequent_tags(cases, folds)
        tables = []
        with progress("probes", residuals.shape[1]) as advance:
            for point in range(residuals.shape[1]):
                vectors = residuals[:, point].double().numpy()
                right = {name: _correct(vectors, answers, folds) for name, answers in labels.items()}
                columns = right | {"by_word": by_word, "majority": majority}
                rows = cases[["sequence"]].assign(**columns).astype(dict.fromkeys(columns, float))
                shares = rows.groupby("sequence", as_index=False).mean()
                counts = rows.groupby("sequence").size().to_numpy()
                tables.append(shares.assign(words=counts, point=point))
                advance(1)
        return pd.concat(tables, ignore_index=True)

    def cases(self, corpus: TokenCorpus) -> pd.DataFrame:
        """The words to use: sequence, position (of the last token), word, tag, fold (of its document).

        Raises:
            InputError: there are too few words, they have only one part of speech, or are in fewer documents than
                folds.
        """
        words = tagged_words(corpus)
        room = context_ends(corpus, self.context).numpy()
        words = words[room[words["sequence"], words["position"]]]
        words["document"] = corpus.documents.numpy()[words["sequence"], words["position"]]
        n_documents = words["document"].nunique()
        if len(words) < _LEAST or words["tag"].nunique() < 2 or n_documents < _FOLDS:
            raise InputError(
                f"{corpus.n_tokens} tokens of {corpus.source} hold {len(words)} words with a part of speech and "
                f"{self.context} tokens up to there, in {n_documents} documents; at least {_LEAST} words in {_FOLDS} "
                "documents are needed: use more text, or a shorter context."
            )
        generator = np.random.default_rng(self.draw_seed)
        chosen = words.sample(min(self.words, len(words)), random_state=generator).reset_index(drop=True)
        documents = chosen.pop("document")  # words of one document are not independent
        order = generator.permutation(np.unique(documents))
        fold = dict(zip(order, np.arange(len(order)) % _FOLDS, strict=True))
        return chosen.assign(fold=[fold[document] for document in documents])

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        n = int(table["point"].max()) + 1
        quarter = max(1, n // 4)
        if n < 3:
            return Evidence.nothing("This claim needs a model of two layers or more.")
        ends = range(quarter) if claim is RISES else range(n - quarter, n)

        def contrast(answers: str) -> pd.Series[float]:
            curves = by_layer(table, answers, "point")
            return curves[list(range(quarter, n - quarter))].mean(axis=1) - curves[list(ends)].mean(axis=1)

        probe, control, by_word = (_curve(table, answers) for answers in ("probe", "control", "by_word"))
        selective = by_document(
            by_layer(table.assign(selectivity=table["probe"] - table["control"]), "selectivity", "point")
        )
        best = int(selective.to_numpy().mean(0).argmax())
        note = (
            f"Selectivity is {plateau_in_words(selective.to_numpy(), range(n))}. Before layer {best}, where its mean "
            f"is highest, the linear probe is right on {probe[best]:.1%} of words, and on {control[best]:.1%} in the "
            f"control task; each word's most frequent part of speech is right on {by_word[best]:.1%}."
        )
        return of_documents(contrast("probe"), contrast("control").to_numpy(), note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracies, and `selectivity`: model, metric, point, mean, low, high, n (sequences), seeds."""
        measured = table.assign(selectivity=table["probe"] - table["control"])
        return weighted_summary(measured, dict.fromkeys((*_ANSWERS, "selectivity"), "words"), x="point")

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        levels = {name: where(summary, metric=name)["mean"].iloc[0] for name in ("by_word", "majority")}
        panels = [
            Panel("accuracy", [
                Curve("probe", "linear probe", BLUE), Curve("control", "control task", GREY, "dot"),
                Level(levels["by_word"], GREEN, "each word's most frequent", "dash"),
                Level(levels["majority"], INK, "the most frequent of all", "dash"),
            ], y_axis={"range": [0, 1.02]}),
            Panel("selectivity: accuracy − control task", [Curve("selectivity", "selectivity", BLUE, "dash")]),
        ]  # fmt: skip
        note = f"{int(result.table.groupby('point')['words'].sum().iloc[0])} words, held out; {TEXT_BAND}"
        return Drawing(summary, panels, x="point", x_title="residual before layer", y_title="share of words", note=note)


def control_task(cases: pd.DataFrame, seed: int) -> pd.Series[str]:
    """A random part of speech for every word, the same at all occurrences, drawn with the observed frequencies."""
    generator, tags = np.random.default_rng(seed), cases["tag"].to_numpy()
    dealt = {word: generator.choice(tags) for word in sorted(cases["word"].unique())}
    return cases["word"].map(dealt)


def frequent_tags(
    cases: pd.DataFrame, folds: list[Bool[np.ndarray, " word"]]
) -> tuple[Bool[np.ndarray, " word"], Bool[np.ndarray, " word"]]:
    """Whether the most frequent tag of the word, and of all words, in the other folds is right."""
    by_word, majority = (np.zeros(len(cases), dtype=bool) for _ in range(2))
    for fold in folds:
        learn, judge = cases[~fold], cases[fold]
        most = learn["tag"].value_counts().index[0]
        known = learn.groupby("word")["tag"].agg(lambda tags: tags.value_counts().index[0])
        by_word[fold] = judge["word"].map(known).fillna(most) == judge["tag"]
        majority[fold] = judge["tag"] == most
    return by_word, majority


def _correct(
    vectors: Float[np.ndarray, "word d_model"], labels: Shaped[np.ndarray, " word"],
    folds: list[Bool[np.ndarray, " word"]],
) -> Bool[np.ndarray, " word"]:  # fmt: skip
    """Whether a probe fitted on the other folds is right."""
    right = np.zeros(len(labels), dtype=bool)
    for fold in folds:
        probe = linear_probe(C=_STRENGTH, max_iter=2000).fit(vectors[~fold], labels[~fold])
        right[fold] = probe.predict(vectors[fold]) == labels[fold]
    return right


def _curve(table: pd.DataFrame, answers: str) -> pd.Series[float]:
    weighted = table[answers] * table["words"]
    return weighted.groupby(table["point"]).sum() / table.groupby("point")["words"].sum()
