"""`mechicl run ...`: the experiments of *Stages of Inference*."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from typer import Option

from mechicl.cli.asked import OnPrompts, OnText, OnWeights
from mechicl.cli.command import ProtocolName, asking, studies, study
from mechicl.cli.finish import close, measure
from mechicl.cli.reading import choice, integers, names

if TYPE_CHECKING:
    from mechicl.studies.study import Study


@study("layer-lesions", OnText, batch_size=4)
def layer_lesions(
    kinds: Annotated[str, Option(help="Of drop, swap, attention, mlp, replace, repeat; with commas.")] = "drop,swap",
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
def word_merging() -> "Study":
    """Whether early layers put a word's tokens together: attention, sub-joiner heads, and cuts (section 5.1)."""
    from mechicl.studies.stages import WordMerging

    return WordMerging()


@study("logit-lens", OnText, batch_size=8, processing="fold")
def logit_lens(
    top_k: Annotated[int, Option(min=1, help="Size of the sets of most probable tokens.")] = 10,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Every layer's residual read as a prediction; the corrected and the authors' lens (section 5.2)."""
    from mechicl.studies.stages import LensStudy

    return LensStudy(choice("--protocol", protocol, "corrected", "paper"), top_k=top_k)


@study("neurons", OnWeights, without=("batch_size",), processing="fold")
def neurons(
    kurtosis: Annotated[float, Option(help="Above it a neuron promotes or suppresses (a Gaussian has 3).")] = 10.0,
    variance: Annotated[float, Option(help="Above it a neuron splits the vocabulary in two.")] = 0.005,
) -> "Study":
    """Prediction, suppression and partition neurons by layer, from weights alone (section 5.3)."""
    from mechicl.studies.stages import NeuronsStudy

    return NeuronsStudy(kurtosis=kurtosis, variance=variance)


@study("norms", OnText, batch_size=8, processing="fold")
def norms(protocol: ProtocolName = "corrected") -> "Study":
    """Norms of what attention and MLPs add, and how far each layer turns the residual (section 5.4)."""
    from mechicl.studies.stages import NormsStudy

    return NormsStudy(choice("--protocol", protocol, "corrected", "paper"))


@studies.command("stages-atlas")
@asking(OnText, batch_size=4, processing="fold")
def stages_atlas(asked: OnText) -> None:
    """All signatures of the four stages on relative depth, with a proposal of their boundaries (Fig. 1).

    --model may name several models with commas: each has a panel.
    """
    from mechicl.studies.stages import Atlas, compare_atlases

    results = [measure(Atlas(), replace(asked, model=name)) for name in names("--model", asked.model)]
    close(compare_atlases(results), asked.out)


@study("lesioned-icl", OnPrompts, samples=32, demonstrations="per_prompt")
def lesioned_icl() -> "Study":
    """In-context accuracy and information flow with each layer left out: where the two papers meet."""
    from mechicl.studies.stages import LesionedLearning

    return LesionedLearning()
