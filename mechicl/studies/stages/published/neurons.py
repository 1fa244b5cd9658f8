"""Published values about neurons: counts and densities by layer, and "-ing" neurons."""

from __future__ import annotations

from mechicl.results import Result
from mechicl.studies.drawing import where
from mechicl.studies.stages.neurons import NeuronsStudy, is_entropy_neuron
from mechicl.studies.stages.published.rows import Comparisons, curve, means, model_of, peak
from mechicl.studies.stages.published.values import ENTROPY_NEURONS, ING, PREDICTION, STANFORD_MEDIUM, SUPPRESSION


def counts(result: Result) -> Comparisons:
    """Exact from weights, so the same numbers are expected."""
    summary, model = result.summary(), model_of(result)
    for kind, published in (("prediction", PREDICTION), ("suppression", SUPPRESSION)):
        yield from curve(f"{kind} neurons", result, published, kind, value="count")
    if model.startswith("stanford-gpt2-medium"):
        heavy = summary[summary["metric"].isin(["prediction", "suppression"])].groupby("layer")["count"].sum()
        for layer, old in STANFORD_MEDIUM.items():
            yield "neurons of kurtosis above 10", f"layer {layer}", f"{old} (mean of 5 seeds)", f"{heavy[layer]:.0f}"
        if model.endswith("-a"):
            yield "neurons of kurtosis above 10", "all layers", "more than 1200", f"{heavy.sum():.0f}"
            split = where(summary[summary["count"] > 0], metric="partition")
            first = f"from layer {split['layer'].min()}" if len(split) else "none"
            measured = f"{split['count'].sum():.0f}, {first}"
            yield "partition neurons", "all layers", "at most 100, from layer 15", measured


def densities(result: Result) -> Comparisons:
    """At which depths the two kinds are."""
    prediction, suppression = (means(result, kind) for kind in ("prediction", "suppression"))
    if not prediction.max() > 0:
        return
    last = max(1, len(prediction) - 1)
    begin = int((prediction > 0.1 * prediction.max()).to_numpy().argmax()) / last
    yield "prediction neurons are densest", "depth", "0.85", peak(prediction)
    yield "prediction neurons begin (a tenth of the largest density)", "depth", "about 0.5", f"{begin:.2f}"
    final = prediction[prediction.index >= 0.9 * last].iloc[-1] / prediction.max()
    yield "density of prediction neurons over the largest", "last layer", "below 1", f"{final:.2f}"
    if model_of(result).startswith("phi"):
        yield "largest density, prediction", "all layers", "up to 0.15 (Phi)", f"{prediction.max():.3f}"
        yield "largest density, suppression", "all layers", "up to 0.25 (Phi)", f"{suppression.max():.3f}"


def voters(result: Result) -> Comparisons:
    """The "-ing" study: which neurons, and the paper's statements about their probes; for the paper's model only."""
    summary, model = result.summary(), model_of(result)
    settings = result.provenance.get("settings", {})
    if settings.get("token_class") != "-ing" or model not in ING:
        return
    single = where(summary, metric="single probe")
    ours = [f"{layer}.{neuron}" for layer, neuron in single[["layer", "neuron"]].to_numpy()]
    expected = ING[model][: len(ours)]
    common = f"{len(set(ours) & set(expected))} of {len(expected)}"
    yield '"-ing" neurons in common', f"the first {len(expected)}", " ".join(expected[:5]) + " ...", common
    if model != "gpt2-xl" or settings.get("context") != 24:
        return
    accuracy = where(summary, metric="model's own prediction")["mean"].iloc[0]
    best = single.nlargest(1, "mean").iloc[0]
    named = f"{best['kind']} {best['layer']}.{best['neuron']}"
    yield "best single neuron", '"-ing"', "a suppression neuron", named
    yield "best single probe less the model itself", '"-ing"', "about 0", f"{best['mean'] - accuracy:+.3f}"
    ensemble = where(summary, metric="prediction, ranked")
    if len(ensemble):
        better = f"{ensemble['mean'].max() - accuracy:+.3f}"
        yield "best ensemble of prediction neurons less the model itself", '"-ing"', "above 0", better


def entropy_neurons(result: Result) -> Comparisons:
    """Whether entropy neurons shown in Universal Neurons are among ours; its bounds were chosen per model."""
    rows = result.table[is_entropy_neuron(result.table, NeuronsStudy().kurtosis)]
    ours = {f"{layer}.{neuron}" for layer, neuron in rows[["layer", "neuron"]].to_numpy()}
    for expected in ENTROPY_NEURONS.get(model_of(result), ()):
        yield "entropy neuron", expected, "yes", "yes" if expected in ours else "no"
