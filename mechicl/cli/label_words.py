"""`mechicl run ...`: the experiments of *Label Words are Anchors*."""

from typing import TYPE_CHECKING, Annotated

from typer import Option

from mechicl.cli.asked import OnPrompts
from mechicl.cli.command import ProtocolName, study
from mechicl.cli.completion import one_of, several_of
from mechicl.cli.reading import choice, choices, integers

if TYPE_CHECKING:
    from mechicl.studies.study import Study


@study("information-flow", OnPrompts, demonstrations="per_prompt")
def information_flow(
    head_reduce: Annotated[
        str,
        Option(help="abs_of_sum (the authors' code) or sum_of_abs.", autocompletion=one_of("abs_of_sum", "sum_of_abs")),
    ] = "abs_of_sum",
    loss: Annotated[
        str,
        Option(help="cross_entropy or logit_difference.", autocompletion=one_of("cross_entropy", "logit_difference")),
    ] = "cross_entropy",
    target: Annotated[
        str, Option(help="Class whose loss is taken: gold or predicted.", autocompletion=one_of("gold", "predicted"))
    ] = "gold",
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Saliency flow into and out of label words, by layer (section 2.1)."""
    from mechicl.studies.label_words import InformationFlow

    return InformationFlow(
        choice("--protocol", protocol, "corrected", "paper"),
        head_reduce=choice("--head-reduce", head_reduce, "abs_of_sum", "sum_of_abs"),
        loss=choice("--loss", loss, "cross_entropy", "logit_difference"),
        target=choice("--target", target, "gold", "predicted"),
    )


@study("isolation", OnPrompts)
def isolation(
    layers: Annotated[str, Option(help="Numbers of first and of last layers to isolate, with commas.")] = "1,3,5",
    mode: Annotated[
        str,
        Option(
            help="presoftmax (the authors' code), postsoftmax_zero or postsoftmax_renorm.",
            autocompletion=one_of("presoftmax", "postsoftmax_zero", "postsoftmax_renorm"),
        ),
    ] = "presoftmax",
    pool: Annotated[
        str,
        Option(
            help="Where random tokens may lie: all, demo_text or demo_template.",
            autocompletion=one_of("all", "demo_text", "demo_template"),
        ),
    ] = "all",
    random_seed: Annotated[int, Option(help="Seed of the random control.")] = 0,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Predictions with label words cut off from what precedes them (section 2.2)."""
    from mechicl.studies.label_words import Isolation

    return Isolation(
        choice("--protocol", protocol, "corrected", "paper"),
        n_layers=integers("--layers", layers),
        mode=choice("--mode", mode, "presoftmax", "postsoftmax_zero", "postsoftmax_renorm"),
        pool=choice("--pool", pool, "all", "demo_text", "demo_template"),
        random_seed=random_seed,
    )


@study("deep-layers", OnPrompts)
def deep_layers(
    weight: Annotated[
        str,
        Option(
            help="attention (the paper), or norm: times the length of the value that is moved.",
            autocompletion=one_of("attention", "norm"),
        ),
    ] = "attention",
    protocol: ProtocolName = "corrected",
) -> "Study":
    """How well attention to the label words tells the prediction, by layer (section 2.3)."""
    from mechicl.studies.label_words import DeepLayers

    return DeepLayers(
        choice("--protocol", protocol, "corrected", "paper"),
        weight=choice("--weight", weight, "attention", "norm"),
    )


@study("compression", OnPrompts, without=("demonstrations",))
def compression(
    kept: Annotated[
        str,
        Option(
            help="Kept sets: label, template, separators, template words; joined by + with label.",
            autocompletion=several_of("label+template", "label", "template"),
        ),
    ] = "label+template,label,template",
    positions: Annotated[
        str,
        Option(
            help="Where queries stand: original, zero, packed.", autocompletion=several_of("original", "zero", "packed")
        ),
    ] = "original,zero,packed",
    sets: Annotated[int, Option(min=1, help="Number of random sets.")] = 20,
    random_seed: Annotated[int, Option(help="Seed of the random sets.")] = 0,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Predictions from the label words and template of the context alone (section 3.2)."""
    from mechicl.engines.compression import KEPT
    from mechicl.studies.label_words import Compression

    return Compression(
        choice("--protocol", protocol, "corrected", "paper"),
        kept=choices("--kept", kept, *KEPT),
        positions=choices("--positions", positions, "original", "zero", "packed"),
        n_sets=sets,
        random_seed=random_seed,
    )


@study("compression-speed", OnPrompts, without=("demonstrations", "batch_size"))
def compression_speed(
    repeats: Annotated[int, Option(min=1, help="Times that every query is timed; the median counts.")] = 3,
    lr: Annotated[float, Option(help="Learning rate of the re-weighted arms.")] = 0.01,
    per_class: Annotated[
        int, Option(min=0, help="Training items per class of the re-weighted arms; 0: without them.")
    ] = 4,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Time, operations and memory of queries on whole and on compressed contexts (section 3.2, Table 3)."""
    from mechicl.studies.label_words import CompressionSpeed

    return CompressionSpeed(
        choice("--protocol", protocol, "corrected", "paper"), repeats=repeats, lr=lr, per_class=per_class
    )


@study("reweighting", OnPrompts, without=("demonstrations",))
def reweighting(
    lr: Annotated[float, Option(help="Learning rate of Adam.")] = 0.01,
    epochs: Annotated[int, Option(min=1, help="Rounds through the training items.")] = 10,
    per_class: Annotated[int, Option(min=1, help="Training items per class.")] = 4,
    more_shots: Annotated[
        int, Option(min=0, help="Demonstrations per class of the other baseline, or as many as fit; 0: without.")
    ] = 5,
    random_seed: Annotated[int, Option(help="Seed of the random positions.")] = 0,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Accuracy with learned attention to the label words, and controls (section 3.1)."""
    from mechicl.studies.label_words import Reweighting

    return Reweighting(
        choice("--protocol", protocol, "corrected", "paper"),
        lr=lr,
        epochs=epochs,
        per_class=per_class,
        more_shots=more_shots,
        random_seed=random_seed,
    )


@study("error-diagnosis", OnPrompts, without=("demonstrations",), samples=500, seeds="42")
def error_diagnosis(
    components: Annotated[str, Option(help="Numbers of principal components, with commas.")] = "5,10,20,50,100,200",
    layer: Annotated[int | None, Option(min=0, help="Layer of the heat map; default: two thirds deep.")] = None,
    contexts: Annotated[int, Option(min=1, help="Sets of demonstrations; halved until the data fill them.")] = 64,
    protocol: ProtocolName = "corrected",
) -> "Study":
    """Whether distances between anchors foretell which classes are confused (section 3.3)."""
    from mechicl.studies.label_words import ErrorDiagnosis

    return ErrorDiagnosis(
        choice("--protocol", protocol, "corrected", "paper"),
        components=integers("--components", components),
        layer=layer,
        contexts=contexts,
    )


@study("anchor-sweep", OnPrompts, without=("demonstrations",))
def anchor_sweep(
    windows: Annotated[str, Option(help="Numbers of neighbouring layers isolated together, with commas.")] = "1",
    random_seed: Annotated[int, Option(help="Seed of the random text tokens.")] = 0,
) -> "Study":
    """Isolation of label words and of other tokens, in every layer or window of layers."""
    from mechicl.studies.label_words import AnchorSweep

    return AnchorSweep(windows=integers("--windows", windows), random_seed=random_seed)


@study("anchor-kinds", OnPrompts, without=("demonstrations",))
def anchor_kinds(
    random_seed: Annotated[int, Option(help="Seed of the random text tokens.")] = 0,
) -> "Study":
    """Label words, separators, the template's words, random text: isolated, kept alone, left out."""
    from mechicl.studies.label_words import AnchorKinds

    return AnchorKinds(random_seed=random_seed)
