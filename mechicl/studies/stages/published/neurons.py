"""Neurons: counts and densities by layer, and those that vote for "-ing"."""

from __future__ import annotations

from mechicl.results import Result
from mechicl.studies.stages.neurons import NeuronsStudy, is_entropy_neuron
from mechicl.studies.stages.published.rows import Rows, curve, model_of, peak, row
from mechicl.studies.stages.published.values import ENTROPY_NEURONS, ING, PREDICTION, STANFORD_MEDIUM, SUPPRESSION


def counts(result: Result) -> Rows:
    """Exact from weights: the same numbers are expected."""
    summary, model = result.summary(), model_of(result)
    rows: Rows = []
    for kind, published in (("prediction", PREDICTION), ("suppression", SUPPRESSION)):
        rows += curve(f"{kind} neurons", summary, model, published, kind, value="count")
    if model.startswith("stanford-gpt2-medium"):
        heavy = summary[summary["metric"].isin(["prediction", "suppression"])].groupby("layer")["count"].sum()
        for layer, old in STANFORD_MEDIUM.items():
            rows += row(
                "neurons of kurtosis above 10", f"layer {layer}", f"{old} (mean of 5 seeds)", f"{heavy[layer]:.0f}"
            )
        if model.endswith("-a"):
            rows += row("neurons of kurtosis above 10", "all layers", "more than 1200", f"{heavy.sum():.0f}")
            split = summary[(summary["metric"] == "partition") & (summary["count"] > 0)]
            first = f"from layer {split['layer'].min()}" if len(split) else "none"
            rows += row("partition neurons", "all layers", "at most 100, from layer 15",
                        f"{split['count'].sum():.0f}, {first}")  # fmt: skip
    return rows


def densities(result: Result) -> Rows:
    """Where along the depth the two kinds lie."""
    summary = result.summary()
    prediction, suppression = (
        summary[summary["metric"] == kind].set_index("layer")["mean"] for kind in ("prediction", "suppression")
    )
    if not prediction.max() > 0:
        return []
    last = max(1, len(prediction) - 1)
    begin = int((prediction > 0.1 * prediction.max()).to_numpy().argmax()) / last
    rows = row("prediction neurons are densest", "depth", "0.85", peak(prediction))
    rows += row("prediction neurons begin (a tenth of the largest density)", "depth", "about 0.5", f"{begin:.2f}")
    final = prediction[prediction.index >= 0.9 * last].iloc[-1] / prediction.max()
    rows += row("density of prediction neurons over the largest", "last layer", "below 1", f"{final:.2f}")
    if model_of(result).startswith("phi"):
        rows += row("largest density, prediction", "all layers", "up to 0.15 (Phi)", f"{prediction.max():.3f}")
        rows += row("largest density, suppression", "all layers", "up to 0.25 (Phi)", f"{suppression.max():.3f}")
    return rows


def voters(result: Result) -> Rows:
    """The "-ing" study: which neurons, and what the paper says of their probes; of the paper's model alone."""
    summary, model = result.summary(), model_of(result)
    settings = result.provenance.get("settings", {})
    if settings.get("token_class") != "-ing" or model not in ING:
        return []
    single = summary[summary["metric"] == "single probe"]
    ours = [f"{layer}.{neuron}" for layer, neuron in single[["layer", "neuron"]].to_numpy()]
    expected = ING[model][: len(ours)]
    rows = row('"-ing" neurons in common', f"the first {len(expected)}", " ".join(expected[:5]) + " ...",
               f"{len(set(ours) & set(expected))} of {len(expected)}")  # fmt: skip
    if model != "gpt2-xl" or settings.get("context") != 24:
        return rows
    own = summary[summary["metric"] == "model's own prediction"]["mean"].iloc[0]
    best = single.nlargest(1, "mean").iloc[0]
    rows += row(
        "best single neuron", '"-ing"', "a suppression neuron", f"{best['kind']} {best['layer']}.{best['neuron']}"
    )
    rows += row("best single probe less the model itself", '"-ing"', "about 0", f"{best['mean'] - own:+.3f}")
    ensemble = summary[summary["metric"] == "prediction, ranked"]
    if len(ensemble):
        better = ensemble["mean"].max() - own
        rows += row("best ensemble of prediction neurons less the model itself", '"-ing"', "above 0", f"{better:+.3f}")
    return rows


def entropy_neurons(result: Result) -> Rows:
    """Those that are shown in Universal Neurons, among ours; its bounds were chosen model by model."""
    expected = ENTROPY_NEURONS.get(model_of(result), ())
    found = result.table[is_entropy_neuron(result.table, NeuronsStudy().kurtosis)]
    ours = {f"{layer}.{neuron}" for layer, neuron in found[["layer", "neuron"]].to_numpy()}
    return [line for one in expected for line in row("entropy neuron", one, "yes", "yes" if one in ours else "no")]
