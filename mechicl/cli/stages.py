"""`mechicl run ...`: the experiments of *Stages of Inference*."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from mechicl.cli.asked import OnBenchmarks, OnPrompts, OnText, OnTextAndPrompts, OnWeights, OnWordPairs
from mechicl.cli.command import ProtocolName, asking, studies, study
from mechicl.cli.completion import several_of
from mechicl.cli.finish import close, measure, run
from mechicl.cli.reading import choice, integers, names, numbers

if TYPE_CHECKING:
    from mechicl.probes.tuned_lens import TunedLens
    from mechicl.studies.study import Study


@study("layer-lesions", OnText, batch_size=4)
def layer_lesions(
    kinds: Annotated[
        str,
        Option(
            help="Of drop, swap, attention, mlp, replace, repeat; with commas.",
            autocompletion=several_of("drop", "swap", "attention", "mlp", "replace", "repeat"),
        ),
    ] = "drop,swap",
    windows: Annotated[str, Option(help="Lengths of repeated windows, with commas.")] = "3,5",
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Predictions with each layer dropped, swapped with the next, or repeated (section 4.1)."""
    from mechicl.studies.stages import Lesions

    return Lesions(
        choice("--protocol", protocol, "corrected", "paper"),
        kinds=names("--kinds", kinds),
        windows=integers("--windows", windows),
    )


@study("token-lesions", OnText, batch_size=4)
def token_lesions(
    kind: Annotated[str, Option(help="drop, swap, attention, mlp or replace.")] = "drop",
) -> "Study":
    """Which predictions a lesion changes: by place in the word, position, entropy, and token by token (section 4.1)."""
    from mechicl.studies.stages import TokenLesions

    return TokenLesions(kind=kind)


@study("many-lesions", OnText, batch_size=4)
def many_lesions(
    draws: Annotated[int, Option(min=1, help="Random sets or orders of each size.")] = 8,
    draw_seed: Annotated[int, Option(min=0, help="Seed of these draws.")] = 0,
) -> "Study":
    """More and more random middle layers left out or out of order (section 5.4, extension)."""
    from mechicl.studies.stages import ManyLesions

    return ManyLesions(draws=draws, seed=draw_seed)


@study("benchmarks", OnBenchmarks)
def benchmarks(
    kinds: Annotated[
        str, Option(help="Of drop, swap, repeat; with commas.", autocompletion=several_of("drop", "swap", "repeat"))
    ] = "drop,swap,repeat",
    windows: Annotated[str, Option(help="Lengths of repeated windows, with commas.")] = "5",
    bos: Annotated[bool, Option(help="Put a BOS before every request, as the harness does for Llama.")] = False,
) -> "Study":
    """HellaSwag, ARC-Easy and LAMBADA with layers dropped, swapped or repeated (section 4.1; extra lm-eval)."""
    from mechicl.studies.stages import LesionedBenchmarks

    return LesionedBenchmarks(kinds=names("--kinds", kinds), windows=integers("--windows", windows), prepend_bos=bos)


@study("local-attention", OnText, batch_size=8)
def local_attention(
    windows: Annotated[str, Option(help="Numbers of previous tokens, with commas.")] = "1,2,4,5,8,16",
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Attention to the previous tokens, to position 0 and to itself, by layer and head (section 5.1)."""
    from mechicl.studies.stages import LocalAttentionStudy

    return LocalAttentionStudy(
        choice("--protocol", protocol, "corrected", "paper"), windows=integers("--windows", windows)
    )


@study("word-merging", OnText, batch_size=8)
def word_merging(
    pieces: Annotated[str, Option(help="Tokens of words, with commas; for each, heads are ranked.")] = "2,3,4",
) -> "Study":
    """Whether early layers put a word's tokens together: attention, sub-joiner heads, and cuts (section 5.1)."""
    from mechicl.studies.stages import WordMerging

    return WordMerging(pieces=integers("--pieces", pieces))


@study("word-identity", OnText, batch_size=32)
def word_identity(
    pieces: Annotated[str, Option(help="Tokens of a word; each number is a panel.")] = "2,3",
    occurrences: Annotated[int, Option(help="Contexts of each word.")] = 10,
    classes: Annotated[int, Option(help="Words to tell apart, at most.")] = 40,
    context: Annotated[int, Option(help="Tokens of each context.")] = 24,
) -> "Study":
    """A linear probe for which word ended, at its last token, layer by layer (section 5.1)."""
    from mechicl.studies.stages import WordIdentity

    return WordIdentity(pieces=integers("--pieces", pieces), occurrences=occurrences, classes=classes, context=context)


@dataclass(frozen=True, kw_only=True)
class OnLens(OnText):
    """Running text, part of which a tuned lens may learn from."""

    top_k: Annotated[int, Option(min=1, help="Size of the sets of most probable tokens.")] = 10
    tuned: Annotated[
        Path | None, Option(help="Folder of a tuned lens, drawn as a third; where there is none yet, it is fitted.")
    ] = None
    tuned_tokens: Annotated[int, Option(min=1, help="Tokens that it learns from: the text after --tokens.")] = 100_000
    tuned_steps: Annotated[int, Option(min=1, help="Batches that it learns from.")] = 500
    protocol: ProtocolName = "corrected"

    def tuned_lens(self, model: Any) -> "TunedLens | None":
        """The lens in the folder; where there is none, one that learns from documents after those measured."""
        from mechicl.corpora import load_corpus
        from mechicl.engines.tuned_lens import fit_tuned_lens
        from mechicl.probes.tuned_lens import TunedLens

        if self.tuned is None:
            return None
        if TunedLens.is_in(self.tuned):
            return TunedLens.load(self.tuned)
        corpus = load_corpus(
            self.tokenizer_of(model), self.text, prepend_bos=self.bos, n_ctx=min(self.length, model.cfg.n_ctx),
            tokens=self.tokens + self.tuned_tokens, packing=choice("--packing", self.packing, "packed", "documents"),
            seed=self.seed, column=self.column, split=self.split,
        )  # fmt: skip
        _, apart = corpus.apart(self.tokens)
        return fit_tuned_lens(model, apart, steps=self.tuned_steps, batch_size=self.batch_size, out=self.tuned)


@studies.command("logit-lens")
@asking(OnLens, batch_size=8, processing="fold")
def logit_lens(asked: OnLens) -> None:
    """Every layer's residual read as a prediction; the corrected, the authors' and a tuned lens (section 5.2)."""
    from mechicl.results import Cells
    from mechicl.studies.stages import LensStudy

    protocol = choice("--protocol", asked.protocol, "corrected", "paper")
    cells, model = Cells(asked.out), asked.load_model()
    study = LensStudy(protocol, top_k=asked.top_k, tuned=asked.tuned_lens(model))
    close(run(study, model, asked.material(study, model), asked, cells), asked)


@study("neurons", OnWeights, without=("batch_size",), processing="fold")
def neurons(
    kurtosis: Annotated[float, Option(help="Above it a neuron promotes or suppresses (a Gaussian has 3).")] = 10.0,
    variance: Annotated[float, Option(help="Above it a neuron splits the vocabulary in two.")] = 0.005,
) -> "Study":
    """Prediction, suppression and partition neurons by layer, from weights alone (section 5.3)."""
    from mechicl.studies.stages import NeuronsStudy

    return NeuronsStudy(kurtosis=kurtosis, variance=variance)


@study("entropy-neurons", OnText, batch_size=8, processing="fold")
def entropy_neurons(
    neurons: Annotated[int, Option(min=1, help="Entropy neurons, the most neutral first.")] = 4,
    controls: Annotated[int, Option(min=1, help="Other neurons of like length for each of them.")] = 2,
    values: Annotated[str, Option(help="Activations at which a neuron is held, with commas.")] = "0,2,4,6",
) -> "Study":
    """Entropy, loss and most probable tokens while an entropy neuron is held at a value (Gurnee et al. 2024)."""
    from mechicl.studies.stages import EntropyNeurons

    return EntropyNeurons(neurons=neurons, controls=controls, values=numbers("--values", values))


@study("voting", OnText, batch_size=32, processing="fold")
def voting(
    token_class: Annotated[
        str, Option(help="A suffix (-ing), words with commas, or a file with a word a line.")
    ] = "-ing",
    neurons: Annotated[int, Option(help="Neurons of each kind.")] = 32,
    pairs: Annotated[int, Option(help="Pairs of contexts, at most.")] = 500,
    context: Annotated[int, Option(help="Tokens of each context.")] = 24,
    kurtosis: Annotated[float, Option(help="Above it a neuron is a candidate ...")] = 10.0,
    variance: Annotated[float, Option(help="... and above this one, too.")] = 0.005,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Neurons that tell whether the next token is of a class, alone and in ensembles (section 5.3)."""
    from mechicl.studies.stages import Voting
    from mechicl.studies.stages.voting import words_of_file

    named: str | tuple[str, ...] = token_class
    if Path(token_class).is_file():
        named = words_of_file(Path(token_class))
    elif not token_class.startswith("-"):
        named = names("--token-class", token_class)
    return Voting(
        choice("--protocol", protocol, "corrected", "paper"), token_class=named, neurons=neurons, pairs=pairs,
        context=context, kurtosis=kurtosis, variance=variance,
    )  # fmt: skip


@study("norms", OnText, batch_size=8, processing="fold")
def norms(protocol: ProtocolName = "corrected") -> "Study":
    """Norms of what attention and MLPs add, and how far each layer turns the residual (section 5.4)."""
    from mechicl.studies.stages import NormsStudy

    return NormsStudy(choice("--protocol", protocol, "corrected", "paper"))


@study("cka", OnText, batch_size=8, processing="fold")
def cka(
    minibatch: Annotated[int, Option(min=4, help="Sequences of which one HSIC is made.")] = 16,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Similarity of all layers' representations at last tokens: linear CKA and its blocks (section 5)."""
    from mechicl.studies.stages import Cka

    return Cka(choice("--protocol", protocol, "corrected", "paper"), minibatch=minibatch)


@study("wic", OnWordPairs, batch_size=32)
def wic() -> "Study":
    """At which depth a probe tells whether a word has the same sense in two sentences (section 5.2)."""
    from mechicl.studies.stages import Wic

    return Wic()


@studies.command("stages-atlas")
@asking(OnTextAndPrompts, batch_size=4, processing="fold")
def stages_atlas(asked: OnTextAndPrompts) -> None:
    """All signatures of the four stages on relative depth, with a proposal of their boundaries (Fig. 1).

    --model may name several models with commas: each has a panel. With --task, information flow and attention to label
    words are drawn beside: where the two papers meet.
    """
    from mechicl.studies.label_words import DeepLayers, InformationFlow
    from mechicl.studies.stages import Atlas, compare_atlases, in_context_atlas

    results = []
    for name in names("--model", asked.model):
        own = replace(asked, model=name)
        results.append(measure(Atlas(), own))
        if asked.task is not None:
            flow, deep = (measure(study, own.prompts()) for study in (InformationFlow(), DeepLayers()))
            results[-1] = in_context_atlas(results[-1], flow, deep)
    close(compare_atlases(results), asked)


@study("lesioned-icl", OnPrompts, samples=32, demonstrations="per_prompt")
def lesioned_icl() -> "Study":
    """In-context accuracy and information flow with each layer left out: where the two papers meet."""
    from mechicl.studies.stages import LesionedLearning

    return LesionedLearning()
