"""Neurons seen from their weights: what each writes into the vocabulary, and of which kind it is."""

from mechicl.mlp_neurons.kinds import NeuronClasses, classify, entropy_neurons, null_space_score
from mechicl.mlp_neurons.moments import VocabularyMoments, vocabulary_moments

__all__ = [
    "NeuronClasses", "VocabularyMoments", "classify", "entropy_neurons", "null_space_score", "vocabulary_moments",
]  # fmt: skip
