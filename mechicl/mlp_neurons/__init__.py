"""Neurons from their weights: what each writes to the vocabulary, and its kind."""

from mechicl.mlp_neurons.kinds import NeuronClasses, classify, entropy_neurons, null_space_score
from mechicl.mlp_neurons.moments import VocabularyMoments, randomly_rotated, vocabulary_moments

__all__ = [
    "NeuronClasses", "VocabularyMoments", "classify", "entropy_neurons", "null_space_score", "randomly_rotated",
    "vocabulary_moments",
]  # fmt: skip
