"""Options for the inputs of *Stages of Inference*: weights, running text, pairs of sentences, benchmarks.

Annotations are not strings here, as in `mechicl.cli.options`.
"""

import sys
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from mechicl.cli import completion
from mechicl.cli.options import Asked, OnPrompts, on
from mechicl.cli.reading import names, names_or_path
from mechicl.declared import Declaration
from mechicl.errors import InputError

if TYPE_CHECKING:
    from mechicl.corpora import TokenCorpus
    from mechicl.results import Result
    from mechicl.studies.parts import Material
    from mechicl.studies.study import Study


T = TypeVar("T", bound="OnText")
_benchmarks = completion.several_of("hellaswag", "arc-easy", "lambada", "reviews", "headlines", "questions")
_Bos = Annotated[bool, on("Prepend BOS to every sequence or sentence, or end-of-text if the tokenizer has no BOS.")]
_Limit = Annotated[int | None, on("Documents per benchmark; default: all.", min=1)]


@dataclass(frozen=True, kw_only=True)
class OnWeights(Asked):
    """A model's weights, processed as in *Stages of Inference*."""

    processing: Annotated[
        Literal["none", "fold", "fold-uncentred"],
        on(
            "none; fold: norms folded, weights centred and value biases folded, as in Stages of Inference; or "
            "fold-uncentred: the same, but W_U is not centred."
        ),
    ] = "none"

    def load_model(self, **how: Any) -> Any:
        """The model asked for; folding includes value biases, as the authors did."""
        return super().load_model(processing=self.processing, fold_value_biases=self.processing != "none", **how)

    def material(self, study: "Study", model: Any) -> "Material":
        return None


@dataclass(frozen=True, kw_only=True)
class OnText(OnWeights):
    """Running text, as in *Stages of Inference*."""

    example = "--model tiny-icl --text tiny-icl --tokens 4000 --out results"

    text: Annotated[
        str,
        on(
            "Text, or several texts, comma-separated: a file or folder (txt, jsonl, csv, parquet), a hub data set, "
            "pydocs (English, offline), or tiny-icl (the shipped model's language).",
            completion.texts,
        ),
    ] = "NeelNanda/pile-10k"
    tokens: Annotated[int, on("Tokens of text, filled up to whole sequences of --length.", min=1)] = 20_000
    length: Annotated[int, on("Positions per sequence, including BOS.", min=3)] = 256
    seed: Annotated[int, on("Seed of the order of documents.")] = 0
    prepend_bos: _Bos = True
    packing: Annotated[
        Literal["packed", "documents"],
        on("packed: full sequences; documents: one truncated sequence per document (the authors' way)."),
    ] = "packed"
    column: Annotated[str, on("Column with the text, in a table.")] = "text"
    split: Annotated[str, on("Split of a hub data set.")] = "train"

    def result(self, study: "Study") -> "Result":
        """Also split by text: each text of --text is named next to the model."""
        return self.together([
            _on_text(result, one.text) if several else result
            for one, several in self.of_each_text() for result in one.of_each(study)
        ])  # fmt: skip

    def of_each_text(self: T) -> list[tuple[T, bool]]:
        """These options, split into one set per text, each with whether there are several.

        Raises:
            InputError: a shard is requested for several texts, or two texts have the same name.
        """
        texts = names_or_path("--text", self.text)
        if len(texts) > 1 and self.shard is not None:
            raise InputError("--shard takes one text; run the shards of each text, then all texts without --shard.")
        if len({Path(text).name for text in texts}) < len(texts):
            raise InputError(f"--text is {self.text!r}; two of the texts have the same name: rename one file.")
        return [(replace(self, text=text), len(texts) > 1) for text in texts]

    def material(self, study: "Study", model: Any) -> "Material":
        """The text as sequences; None for a study that reads weights alone."""
        return _corpus(self, self.tokenizer_of(model), model.cfg.n_ctx) if study.reads == "text" else None


@dataclass(frozen=True, kw_only=True)
class OnLens(OnText):
    """Running text, part of which may train a tuned lens."""

    tuned: Annotated[
        Path | None, on("Folder of a tuned lens to draw as well; a lens is fitted if the folder has none.")
    ] = None
    tuned_tokens: Annotated[int, on("Training tokens of the tuned lens: the text after --tokens.", min=1)] = 100_000
    tuned_steps: Annotated[int, on("Training steps of the tuned lens.", min=1)] = 200

    def prepared(self, study: "Study", model: Any) -> "Study":
        """With the lens in the folder or, if there is none, with one fitted to the text that follows."""
        from mechicl.engines.tuned_lens import fit_tuned_lens, tuned_lens_seconds
        from mechicl.limits import duration
        from mechicl.probes.tuned_lens import TunedLens

        if self.tuned is not None and not TunedLens.is_in(self.tuned):
            if self.shard is not None:
                raise InputError(
                    f"{self.tuned} has no tuned lens, and each shard would fit its own; fit one first, without --shard."
                )
            more = replace(self, tokens=self.tokens + self.tuned_tokens)
            _, apart = _corpus(more, self.tokenizer_of(model), model.cfg.n_ctx).apart(self.tokens)
            seconds = tuned_lens_seconds(apart, model, steps=self.tuned_steps)
            told = f"{self.tuned_steps} steps will take {duration(seconds)} (an order of magnitude)"
            print(f"mechicl: first a tuned lens is fitted on held-out text; {told}.", file=sys.stderr)
            fit_tuned_lens(model, apart, steps=self.tuned_steps, out=self.tuned)
        lens = None if self.tuned is None else TunedLens.load(self.tuned)
        return replace(study, tuned=lens)  # type: ignore[call-arg]


@dataclass(frozen=True, kw_only=True)
class OnTextAndPrompts(OnText):
    """Running text and, if requested, prompts of tasks."""

    task: Annotated[str | None, on("Tasks whose information flow to add, comma-separated.", completion.tasks)] = None
    data: Annotated[Path | None, on("Data of these tasks, as for information-flow; default: the tasks' own.")] = None
    samples: Annotated[int, on("Prompts per task and seed.", min=1)] = 32
    prompt_seeds: Annotated[str, on("Seeds of their demonstrations, comma-separated.")] = "42,43"

    def prompts(self) -> OnPrompts:
        """The same model with unprocessed weights, on prompts of the tasks."""
        same = {one.name: getattr(self, one.name) for one in fields(Asked)}
        same |= {"model": self.models()[0], "checkpoints": None}
        return OnPrompts(
            **same, task=self.task or "", data=self.data, samples=self.samples, seeds=self.prompt_seeds
        )  # fmt: skip

    def together(self, results: "list[Result]") -> "Result":
        """The atlases of all models and texts; with --task, information flow and attention are added."""
        from mechicl.studies.stages.atlas import compare_atlases

        return compare_atlases(results)

    def of_one(self, study: "Study") -> "Result":
        from mechicl.studies import DeepLayers, InformationFlow
        from mechicl.studies.stages.in_context_atlas import in_context_atlas

        atlas = super().of_one(study)
        if self.task is None:
            return atlas
        return in_context_atlas(
            atlas, *(self.prompts().result(one) for one in (InformationFlow(untrained=0), DeepLayers()))
        )


@dataclass(frozen=True, kw_only=True)
class OnWordPairs(OnWeights):
    """Pairs of sentences that share a word."""

    example = "--model tiny-icl --data WiC_dataset --out results"

    data: Annotated[
        Path,
        on("Word-in-Context file (JSONL, CSV, TSV, Parquet) or folder with train and dev, or the official format."),
    ]
    prepend_bos: _Bos = True
    seed: Annotated[int, on("Seed of the split of a single file, the folds, and the control's labels.", min=0)] = 0

    def material(self, study: "Study", model: Any) -> "Material":
        """The pairs, with each sentence up to its word."""
        from mechicl.corpora import load_word_pairs

        tokenizer = self.tokenizer_of(model)
        return load_word_pairs(
            tokenizer, self.data, prepend_bos=self.prepend_bos, n_ctx=model.cfg.n_ctx, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class OnAllOfStages(OnTextAndPrompts):
    """Running text, and additional inputs of some studies of the second paper."""

    word_pairs: Annotated[Path | None, on("Word-in-Context data; without it, wic is left out.")] = None
    benchmarks: Annotated[
        str | None,
        on("Benchmarks such as hellaswag, or reviews, which needs no network; without them, none is run.", _benchmarks),
    ] = None
    limit: _Limit = None

    def material(self, study: "Study", model: Any) -> "Material":
        """This study's input: text, word pairs, benchmarks, or None if it reads weights alone."""
        if study.reads == "pairs" and self.word_pairs is not None:
            pairs = OnWordPairs(
                model=self.model, out=self.out, data=self.word_pairs, prepend_bos=self.prepend_bos, seed=self.seed
            )
            return pairs.material(study, model)
        if study.reads == "benchmarks" and self.benchmarks is not None:
            tasks = OnBenchmarks(model=self.model, out=self.out, tasks=self.benchmarks, limit=self.limit)
            return tasks.material(study, model)
        if study.protocol == "paper" and study.name in _AUTHORS_CUTS:
            return self._as_the_authors_cut(study, model)
        return super().material(study, model)

    def _as_the_authors_cut(self, study: "Study", model: Any) -> "TokenCorpus":
        """A sequence per document, up to the budget of tokens, or all documents if they hold fewer."""
        length, characters = _AUTHORS_CUTS[study.name]
        architecture = getattr(model.cfg, "original_architecture", None) or getattr(model.cfg, "architecture", "")
        if length is None or "gpt2" not in str(architecture).lower():
            length = _AUTHORS_CONTEXT  # for other models the authors cut no document shorter
        asked = replace(self, packing="documents", length=length)
        tokenizer = self.tokenizer_of(model)
        try:
            return _corpus(asked, tokenizer, model.cfg.n_ctx, characters)
        except InputError:
            return _corpus(replace(asked, tokens=None), tokenizer, model.cfg.n_ctx, characters)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class OnBenchmarks(Asked):
    """Benchmarks of lm-evaluation-harness."""

    tasks: Annotated[
        str,
        on(
            "Names of the harness, or reviews, headlines, questions, which need no network; comma-separated.",
            _benchmarks,
        ),
    ] = "hellaswag,arc-easy,lambada"
    include: Annotated[Path | None, on("Folder with your own tasks in the harness's YAML format.")] = None
    limit: _Limit = None

    def material(self, study: "Study", model: Any) -> "Material":
        """The harness's tasks with their documents."""
        from mechicl.tasks import load_benchmarks

        self.tokenizer_of(model)
        return load_benchmarks(names("--tasks", self.tasks), include=self.include, limit=self.limit)


def _on_text(result: "Result", text: str) -> "Result":
    """The result with the text's name next to the model's."""
    facts = result.provenance["model"]
    name = f"{facts['name']} on {Path(text).name}"
    provenance = {**result.provenance, "model": {**facts, "name": name, "model": facts["name"]}}
    return replace(result, table=result.table.assign(model=name), provenance=provenance)


@lru_cache(maxsize=1)
def _corpus(asked: OnText, tokenizer: Any, n_ctx: int, characters: int | None = None) -> "TokenCorpus":
    """One corpus serves all studies of a paper."""
    from mechicl.corpora import load_corpus

    return load_corpus(
        tokenizer, asked.text, prepend_bos=asked.prepend_bos, n_ctx=min(asked.length, n_ctx), tokens=asked.tokens,
        packing=asked.packing, characters=characters, seed=asked.seed, column=asked.column, split=asked.split,
    )  # fmt: skip


_AUTHORS_CUTS: dict[str, tuple[int | None, int | None]] = {
    "layer-lesions": (None, None), "local-attention": (500, None), "logit-lens": (None, 500),
}  # fmt: skip
"""Tokens (of GPT-2 models) and characters at which the authors cut documents, if not at the model's n_ctx."""
_AUTHORS_CONTEXT = 2048
"""Largest context of the authors' models."""
_KINDS: dict[str, type[Asked]] = {
    "prompts": OnPrompts, "text": OnText, "pairs": OnWordPairs, "benchmarks": OnBenchmarks, "weights": OnWeights,
}  # fmt: skip
_MORE: dict[str, type[Asked]] = {"logit-lens": OnLens, "stages-atlas": OnTextAndPrompts}
"""Studies that take more than their input."""


def kind_for(told: Declaration) -> type[Asked]:
    """The options of a study's command."""
    return _MORE.get(told.name, _KINDS[told.reads])
