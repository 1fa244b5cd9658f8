"""The inner lexicon: does a word's last piece come to represent it? (after Kaplan et al. 2024, Feucht et al. 2024)

*Stages of Inference* infers detokenization from attention; here we test it directly. A word that has its own token is
also spelt in two or three tokens, in the same context. By layer:

- *Retrieval*: among all words, is the last piece's residual nearest (cosine, centred) to that of the whole word in
  another context? Controls: the last piece alone, another word's pieces before it, the first pieces' letters shuffled.
  Ceiling: the whole word itself.
- *Continuation*: KL(whole || spelling) of the next token in nats, and the same with the spelling's residual replaced by
  the whole word's (or another word's) before a layer.
- *Cuts*: retrieval before the middle layer with the last piece's attention to the word's other pieces cut in a single
  layer, or in the first third of the layers; the control cuts the same number of edges to the tokens before the word.
- *Meaning*: is the residual at the end of a phrase ("kick the bucket") nearer to that of a word of the same meaning
  ("die") than to equally frequent words of other pairs? Phrases and words are in different carrier sentences.
- *Identity*: can a linear probe still predict the current token, at the last pieces of words of several tokens, and at
  words of one token (Feucht et al. call the loss token erasure)?

The experiments are our own, so there is no `protocol="paper"`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus, pieces_of_ended_words
from mechicl.corpora.contexts import context_ends
from mechicl.corpora.spellings import Spelling, spelt_words
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, VERMILION
from mechicl.hooks import Patch
from mechicl.patches.cut_words import CutWords
from mechicl.progress import progress
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.ballots import contexts_of
from mechicl.studies.stages.spelling_bench import CONTROLS, Bench, Put, nearest
from mechicl.studies.stages.word_identity import FOLDS, held_out_correct
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import mean_with_interval

_SOURCE = "after Kaplan et al. 2024 and Feucht et al. 2024; Stages of Inference, section 5.1"
_KINDS = ("whole word", "spelling", *CONTROLS)
_STYLES = {
    "whole word": (INK, "dot"), "spelling": (GREEN, "solid"), CONTROLS[0]: (GREY, "solid"),
    CONTROLS[1]: (ORANGE, "solid"), CONTROLS[2]: (PURPLE, "solid"),
}  # fmt: skip
_MERGES = Claim(
    "inner-lexicon", "In early layers the last piece of a word becomes the word.", _SOURCE,
    "retrieval of the word, mean over the first third of the layers", "share",
    "the best control (the last piece alone, or after others' pieces)", 0.1,
)  # fmt: skip
_GOES_ON = Claim(
    "inner-lexicon-continuation",
    "After a word's spelling, predictions are closer to those after its own token than after the last piece alone.",
    _SOURCE, "KL of the last piece alone from the whole word", "nats", "KL of the spelling from the whole word", 0.1,
)  # fmt: skip
_CUT = Claim(
    "inner-lexicon-attention", "Attention to the word's other pieces in early layers merges them.", _SOURCE,
    "retrieval lost when it is cut in the first third of the layers", "share",
    "cutting the same number of edges to the tokens before the word", 0.1,
)  # fmt: skip
_MEANS = Claim(
    "inner-lexicon-meaning", "At the end of a phrase, the residual becomes like that of a word of the same meaning.",
    _SOURCE, "cosine to that word, mean over the middle third of the layers minus that of the embeddings", "cosine",
    "words of other pairs that are as frequent", 0.05,
)  # fmt: skip
_ERASED = Claim(
    "inner-lexicon-erasure", "At a word's last piece, early layers erase which token stands there.", _SOURCE,
    "drop in a linear probe's accuracy from the embedding to a third of the depth", "accuracy",
    "that at words of one token", 0.1,
)  # fmt: skip
_LEAST_WORDS, _LEAST_PAIRS = 100, 60
_CLASSES, _OCCURRENCES = 20, 10
_COLUMNS = {
    "word": "object", "point": "int64", "value": "float64", "kind": "object", "pieces": "int64", "quantity": "object",
}  # fmt: skip
"""An empty table: the vocabulary or the text is too small for an arm."""
_PATCHED = 10
"""Largest number of layers before which residuals are replaced."""


@dataclass(frozen=True)
class InnerLexicon(Study):
    """A row per word (or pair, or token), kind, quantity and point: `value` is a share, a cosine, or nats.

    Arms: spelling (retrieval, cosine, kl of the next token at the last point), cut (retrieval before the middle layer),
    patch (kl), meaning (cosine), identity (accuracy). Point i is the residual before layer i; for a cut, layer i.
    """

    pieces: Annotated[tuple[int, ...], Switch("Tokens per spelling.", min=2)] = (2, 3)
    words: Annotated[int, Switch("Maximum number of words to distinguish.", min=_LEAST_WORDS)] = 150
    context: Annotated[int, Switch("Tokens before each word.", min=1)] = 8
    draw_seed: Annotated[int, Switch("Seed of all draws.", min=0)] = 0

    name = "inner-lexicon"
    title = "The inner lexicon"
    shows = "How words spelt in several tokens become the word's own token, layer by layer; also phrases and meanings."
    source = _SOURCE
    claim = "The first layers merge the tokens of a word into a representation of the word."
    claims = (_MERGES, _GOES_ON, _CUT, _MEANS, _ERASED)
    reads = "text"
    no_paper_protocol = "the authors do not measure it"
    batch_size = 50

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # retrieval compares all words of the text

    def conditions(self, model: Any) -> list[Condition]:
        return [{"arm": arm} for arm in ("spelling", "cut", "patch", "meaning", "identity")]

    def passes(self, n_layers: int) -> float:
        return 1  # some hundred short contexts, many times: about the cost of one pass over a long text

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        arms = {
            "spelling": self._spelling, "cut": self._cut, "patch": self._patch, "meaning": self._meaning,
            "identity": self._identity,
        }  # fmt: skip
        bench = Bench(model, corpus, self._spellings(corpus), self.context, batch_size)
        tables = list(arms[condition["arm"]](bench))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(_COLUMNS)).astype(_COLUMNS)

    def _spellings(self, corpus: TokenCorpus) -> list[Spelling]:
        generator = np.random.default_rng(self.draw_seed)
        spellings = spelt_words(corpus, self.pieces, context=self.context, most=self.words, generator=generator)
        if len(spellings) < _LEAST_WORDS:
            raise InputError(
                f"{corpus.n_tokens} tokens of {corpus.source} hold {len(spellings)} words that have a token of their "
                f"own, occur twice and can be spelt in {' and in '.join(map(str, self.pieces))} tokens; at least "
                f"{_LEAST_WORDS} are needed: use more text, or a model whose tokenizer has such words."
            )
        return spellings

    def _spelling(self, bench: Bench) -> Iterator[pd.DataFrame]:
        """How near each kind of spelling is to the whole word in another context, and how the model continues."""
        prototypes, whole = bench.residuals(bench.whole(1)), bench.residuals(bench.whole(0))
        yield from bench.retrieval(whole, prototypes, kind="whole word", pieces=1)
        generator = np.random.default_rng(self.draw_seed)
        for pieces in self.pieces:
            for kind, corpus in bench.spelt(pieces, generator).items():
                residuals = bench.residuals(corpus)
                yield from bench.retrieval(residuals, prototypes, kind=kind, pieces=pieces)
                divergence = bench.divergence(whole[:, -1], residuals[:, -1])
                yield bench.rows("kl", divergence[:, None], [whole.shape[1] - 1], kind=kind, pieces=pieces)

    def _cut(self, bench: Bench) -> Iterator[pd.DataFrame]:
        """Retrieval before the middle layer, with attention cut in each layer, and in the first third of them."""
        middle, third = _middle(bench.n_layers), range(_third(bench.n_layers))
        prototypes = bench.residuals(bench.whole(1), point=middle)
        pieces = min(self.pieces)
        spelling = bench.spelt(pieces, np.random.default_rng(self.draw_seed))["spelling"]
        cuts: list[tuple[str, int, list[Patch]]] = [("nothing", -1, [])]
        cuts += [(f"{where}, early", -1, [CutWords(third, where)]) for where in ("within", "before")]
        cuts += [("within", layer, [CutWords([layer])]) for layer in range(middle)]
        with progress("cuts", len(cuts)) as advance:
            for kind, layer, patches in cuts:
                hits, _ = nearest(bench.residuals(spelling, patches, point=middle), prototypes)
                yield bench.rows("retrieval", hits, [layer], kind=kind, pieces=pieces)
                advance(1)

    def _patch(self, bench: Bench) -> Iterator[pd.DataFrame]:
        """KL of the next token with the last piece's residual replaced by the whole word's, before about ten layers."""
        whole = bench.residuals(bench.whole(0))
        pieces = min(self.pieces)
        spelling = bench.spelt(pieces, np.random.default_rng(self.draw_seed))["spelling"]
        given = {"the word's own": whole, "another word's": whole.roll(1, 0)}
        points = range(0, bench.n_layers, -(-bench.n_layers // _PATCHED))
        with progress("patches", len(points) * len(given)) as advance:
            for point in points:
                for kind, residuals in given.items():
                    patch = Put(point, spelling.tokens, residuals[:, point])
                    ends = bench.residuals(spelling, [patch], point=bench.n_layers)
                    divergence = bench.divergence(whole[:, -1], ends[:, 0])
                    yield bench.rows("kl", divergence[:, None], [point], kind=kind, pieces=pieces)
                    advance(1)

    def _meaning(self, bench: Bench) -> Iterator[pd.DataFrame]:
        """Cosine of a phrase's last residual with its word's, and with equally frequent words of other pairs."""
        names, cosines = bench.meanings(least=_LEAST_PAIRS)
        for kind, values in cosines.items():
            yield bench.rows("cosine", values, range(values.shape[1]), kind=kind, pieces=0, names=names)

    def _identity(self, bench: Bench) -> Iterator[pd.DataFrame]:
        """Accuracy of a linear probe for the current token, at last pieces and at words of one token."""
        for kind, cases in _identities(bench.corpus, self.context, self.draw_seed):
            residuals = bench.residuals(contexts_of(bench.corpus, cases, self.context))
            names = [f"{kind} {label}" for label in cases["label"]]
            correct = [
                held_out_correct(residuals[:, point], cases, self.draw_seed) for point in range(residuals.shape[1])
            ]
            values = torch.tensor(np.stack(correct, 1)).float()
            yield bench.rows("accuracy", values, range(values.shape[1]), kind=kind, pieces=0, names=names)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        n_layers = int(where(table, arm="spelling")["point"].max())
        first, pieces = _third(n_layers), min(self.pieces)
        early = range(1, first + 1)
        if claim in (_MERGES, _GOES_ON):
            quantity, points = ("retrieval", early) if claim == _MERGES else ("kl", range(n_layers, n_layers + 1))
            of_kind = _by_word(table, "spelling", quantity, points, pieces)
            if claim == _GOES_ON:
                alone, spelt = of_kind[CONTROLS[0]], of_kind["spelling"]
                sizes = f"to its spelling {spelt.mean():.2f} nats, to its last piece {alone.mean():.2f}"
                return _evidence(alone, spelt, f"KL from the whole word: {sizes}.")
            best = of_kind[list(CONTROLS)].mean().idxmax()
            whole = _by_word(table, "spelling", quantity, early, 1)["whole word"].mean()
            note = f"The best control is {best}; the whole word itself gives {whole:.2f}."
            return _evidence(of_kind["spelling"], of_kind[best], note)
        if claim == _CUT:
            of_kind = _by_word(table, "cut", "retrieval", [-1], pieces)
            lost = {where: of_kind["nothing"] - of_kind[f"{where}, early"] for where in ("within", "before")}
            return _evidence(lost["within"], lost["before"], f"Read before layer {_middle(n_layers)}.")
        if claim == _MEANS:
            of_kind, last_tokens = (
                _by_word(table, "meaning", "cosine", points, 0) for points in (range(first, 2 * first + 1), [0])
            )
            if of_kind.empty:
                why = f"Fewer than {_LEAST_PAIRS} of the shipped phrases have a word of one token in this vocabulary."
                return Evidence.nothing(why)
            rise = of_kind - last_tokens  # the phrase's last token alone may be close in meaning already
            return replace(_evidence(rise["same meaning"], rise["as frequent"]), unit_sampled="pairs")
        return self._erasure(table, first)

    def _erasure(self, table: pd.DataFrame, first: int) -> Evidence:
        """The sample is tokens: each class of tokens gives the fall of its accuracy."""
        rows = where(table, arm="identity")
        if rows["kind"].nunique() < 2:
            return Evidence.nothing(
                f"The text has no {_CLASSES} last pieces and words that occur {_OCCURRENCES} times, in {FOLDS} "
                "documents; use more text."
            )
        accuracy = rows.pivot_table(index=["kind", "word"], columns="point", values="value")
        fall = accuracy[0] - accuracy[first]
        # The same number of each, paired arbitrarily: both are samples, and the interval includes the spread of both.
        pieces, words = (fall[kind].to_numpy() for kind in ("last pieces", "words of one token"))
        return Evidence(pieces, words, np.arange(_CLASSES), unit_sampled="words")

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means over words: model, arm, metric, kind, pieces, point, mean, low, high, n, seeds."""
        by = ["model", "arm", "metric", "kind", "pieces", "point"]
        return mean_with_interval(table.rename(columns={"quantity": "metric"}), "value", by)

    def drawing(self, result: Result) -> Drawing:
        summary, pieces = result.summary(), min(self.pieces)

        def curves(arm: str, metric: str, kinds: dict[str, tuple[str, str]], **more: Any) -> list[Any]:
            return [Curve(metric, kind, *style, {"arm": arm, "kind": kind, **more}) for kind, style in kinds.items()]

        of_controls = {kind: _STYLES[kind] for kind in _KINDS[1:]}
        panels = [
            Panel("the word is retrieved", [
                *curves("spelling", "retrieval", {"whole word": _STYLES["whole word"]}),
                *curves("spelling", "retrieval", of_controls, pieces=pieces),
                *(Curve("retrieval", f"spelling, {n} tokens", GREEN, "dash",
                        {"arm": "spelling", "kind": "spelling", "pieces": n}) for n in self.pieces if n != pieces),
            ], {}, {"range": [0, 1.02]}),
            Panel("attention to its pieces cut in one layer",
                  [*curves("cut", "retrieval", {"within": (VERMILION, "solid")}), *self._levels(summary)],
                  {"title_text": "layer that is cut"}, {"range": [0, 1.02]}),
            Panel("residual replaced: KL to the whole word (nats)",
                  [*curves("patch", "kl", {"the word's own": (GREEN, "solid"), "another word's": (GREY, "solid")}),
                   *_level(summary, "spelling", "kl", "spelling", pieces)]),
        ]  # fmt: skip
        if (summary["arm"] == "meaning").any():
            kinds = {"same meaning": (BLUE, "solid"), "as frequent": (GREY, "solid")}
            panels.append(Panel("phrases: cosine to a word", curves("meaning", "cosine", kinds)))
        if (summary["arm"] == "identity").any():
            kinds = {"last pieces": (GREEN, "solid"), "words of one token": (INK, "dot")}
            panels.append(
                Panel(
                    "a linear probe predicts the token", curves("identity", "accuracy", kinds), {}, {"range": [0, 1.02]}
                )
            )
        note = f"words spelt in {pieces} tokens unless said otherwise; band: 95 % interval over words"
        shown = summary[summary["point"] >= 0]
        return Drawing(shown, panels, x="point", x_title="residual before layer", note=note)

    def _levels(self, summary: pd.DataFrame) -> list[Level]:
        """Retrieval with attention cut in the first third of the layers: within the word, and to just before it."""
        pieces = min(self.pieces)
        return [
            level
            for kind, colour in (("within, early", VERMILION), ("before, early", GREY))
            for level in _level(summary, "cut", "retrieval", kind, pieces, colour)
        ]


def _identities(corpus: TokenCorpus, context: int, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Occurrences of tokens that are last pieces, and of one-token words: equally many tokens, each equally often."""
    ended, room = pieces_of_ended_words(corpus.words), context_ends(corpus, context)
    kinds = {"last pieces": (ended > 1) & room, "words of one token": (ended == 1) & room}
    generator = np.random.default_rng(seed)
    for kind, ends in kinds.items():
        row, position = ends.nonzero(as_tuple=True)
        columns = {"sequence": row, "document": corpus.documents[row, position], "position": position}
        columns["label"] = corpus.tokens[row, position]
        cases = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
        counts = cases["label"].value_counts()
        frequent = counts[counts >= _OCCURRENCES].index[:_CLASSES]
        if len(frequent) == _CLASSES and cases["document"].nunique() >= FOLDS:
            of_token = [where(cases, label=label).sample(_OCCURRENCES, random_state=generator) for label in frequent]
            yield kind, pd.concat(of_token, ignore_index=True)


def _by_word(table: pd.DataFrame, arm: str, quantity: str, points: Any, pieces: int) -> pd.DataFrame:
    """Means over points: a row per word, a column per kind."""
    rows = where(table, arm=arm, quantity=quantity, pieces=pieces)
    rows = rows[rows["point"].isin(list(points))]
    return rows.pivot_table(index="word", columns="kind", values="value")


def _evidence(values: pd.Series[float], null: pd.Series[float], note: str = "") -> Evidence:
    """The sample is words."""
    return Evidence(
        values.to_numpy(), null.loc[values.index].to_numpy(), np.arange(len(values)), unit_sampled="words", note=note
    )


def _level(summary: pd.DataFrame, arm: str, metric: str, kind: str, pieces: int, colour: str = ORANGE) -> list[Level]:
    """A line at the mean of rows without a layer."""
    rows = where(summary, arm=arm, metric=metric, kind=kind, pieces=pieces)
    return [Level(value, colour, kind) for value in rows["mean"].iloc[:1]]


def _third(n_layers: int) -> int:
    return max(1, n_layers // 3)


def _middle(n_layers: int) -> int:
    return max(1, n_layers // 2)
