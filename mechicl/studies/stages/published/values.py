"""Numbers from the paper, the authors' notebooks and others, by model; read off figures unless said otherwise."""

from __future__ import annotations

from collections.abc import Mapping

Curve = Mapping[int, float]
"""Value at some layers or points."""


def _all(*values: float) -> Curve:
    return dict(enumerate(values))


ATTENTION: Mapping[str, Curve] = {
    "gpt2": _all(.040, .046, .102, .083, .068, .037, .042, .031, .033, .023, .020, .021),
    "gpt2-medium": _all(.025, .029, .086, .106, .079, .060, .036, .033, .043, .030, .037, .033, .028, .037, .028, .029,
                        .026, .025, .022, .015, .014, .017, .014, .022),
    "gpt2-large": _all(.026, .027, .038, .051, .060, .065, .062, .060, .058, .060, .053, .044, .041, .052, .053, .048,
                       .038, .035, .034, .023, .025, .025, .021, .026, .022, .019, .022, .019, .014, .013, .013, .015,
                       .017, .017, .022, .029),
    "gpt2-xl": {0: .026, 6: .061, 47: .021},
    "pythia-410m-deduped": _all(.054, .065, .047, .066, .055, .087, .030, .030, .032, .031, .029, .025, .029, .025,
                                .023, .032, .018, .019, .014, .017, .018, .019, .033, .051),
    "pythia-1.4b-deduped": _all(.058, .076, .045, .056, .051, .034, .047, .021, .040, .039, .032, .026, .028, .027,
                                .026, .022, .019, .016, .020, .028, .018, .019, .027, .045),
    "pythia-2.8b-deduped": {**_all(.047, .084, .032, .035, .040, .039, .025, .024, .033, .030, .035, .028),
                            30: .028, 31: .021},
    "pythia-6.9b-deduped": {**_all(.042, .060, .055, .064, .043, .027, .031, .031, .020), 24: .015, 28: .026,
                            31: .016},
    "phi-1": _all(.065, .100, .049, .038, .037, .023),
    "phi-1_5": {**_all(.075, .058, .035, .025, .028, .022), 23: .026},
    "phi-2": {**_all(.075, .061, .028, .016, .019, .022), 25: .011, 31: .015},
}  # fmt: skip
"""The authors' mean of single attention entries, previous five tokens, by layer."""

ENTROPY: Mapping[str, Curve] = {
    "gpt2": _all(15.60, 15.46, 15.43, 15.36, 15.30, 15.23, 15.09, 14.86, 14.46, 13.65, 11.9, 9.22, 7.18)
}
"""Entropy of the authors' lens, by point, in bits."""

PREDICTION: Mapping[str, Curve] = {"gpt2": _all(0, 0, 0, 1, 1, 2, 0, 2, 14, 57, 97, 52)}
SUPPRESSION: Mapping[str, Curve] = {"gpt2": _all(0, 0, 0, 0, 0, 0, 0, 0, 3, 7, 32, 94)}

STANFORD_MEDIUM: Curve = {20: 130.8, 21: 142.2, 22: 207.2, 23: 339.2}
"""Neurons of kurtosis above 10 in the last layers of stanford-gpt2-medium, mean of five seeds (Universal Neurons)."""

REPLICATED = {
    "pythia-410m-deduped": ("0.759-0.764", "0.589-0.600"),
    "pythia-160m": ("0.568", None),
    "pythia-70m": ("0.274", None),
    "SmolLM2-360M": ("0.789", None),
}
"""Agreement under drops in the middle half, and in the first and last eighth, of the layers, from others' runs."""

ING = {
    "gpt2-xl": (
        "46.4888", "47.1678", "43.1157", "36.267", "39.909", "36.2973", "41.2155", "44.2890", "45.1184", "30.3370",
        "46.5578", "33.1484", "33.143", "29.2673", "33.5111", "39.2211", "42.1434", "45.588", "37.3822", "44.5139",
        "31.5541", "33.5101", "36.3273", "33.1689", "33.2540", "41.6359", "24.3822", "41.2219", "36.1912",
        "45.5128", "31.2843", "34.2122", "39.1468", "37.2182", "34.5231", "42.3649"
    ),
    "stanford-gpt2-medium-a": (
        "22.1585", "22.3534", "19.2871", "20.1867", "19.1647", "22.904", "19.3984", "15.1699", "23.3844", "16.3122",
        "18.1984", "21.118", "16.3346", "14.2046", "14.4048"
    ),
}  # fmt: skip
"""Layer.neuron of "-ing" neurons: the 36 of largest effect of GPT-2 XL, in that order (appendix I), and 15 of Universal
Neurons.
"""

ENTROPY_NEURONS = {
    "stanford-gpt2-small-a": ("11.3030", "11.2859"),
    "stanford-gpt2-medium-a": ("23.945", "22.2882"),
    "pythia-160m": ("11.1070", "10.1205", "10.2385"),
}
"""Layer.neuron of entropy neurons that Universal Neurons shows."""

SUB_JOINER = {"pythia-2.8b-deduped": (1, 6)}
"""Layer and head in the authors' code, counted from 0; their figure says "layer 2 head 5"."""
