"""*The Remarkable Robustness of LLMs: Stages of Inference?* (Lad et al. 2024); an experiment a file."""

from mechicl.studies.stages.atlas import Atlas, compare_atlases, stages_atlas
from mechicl.studies.stages.benchmarks import LesionedBenchmarks, benchmarks
from mechicl.studies.stages.cka import Cka, cka
from mechicl.studies.stages.entropy_neurons import EntropyNeurons, entropy_neurons
from mechicl.studies.stages.in_context import LesionedLearning, lesioned_icl
from mechicl.studies.stages.in_context_atlas import in_context_atlas
from mechicl.studies.stages.lens import LensStudy, logit_lens
from mechicl.studies.stages.lesions import Lesions, layer_lesions
from mechicl.studies.stages.local_attention import LocalAttentionStudy, local_attention
from mechicl.studies.stages.many_lesions import ManyLesions, many_lesions
from mechicl.studies.stages.neurons import NeuronsStudy, neurons
from mechicl.studies.stages.norms import NormsStudy, norms
from mechicl.studies.stages.token_lesions import TokenLesions, token_lesions
from mechicl.studies.stages.voters import find_neurons, neuron_tokens
from mechicl.studies.stages.voting import Voting, voting
from mechicl.studies.stages.wic import Wic, wic
from mechicl.studies.stages.word_identity import WordIdentity, word_identity
from mechicl.studies.stages.word_merging import WordMerging, word_merging

__all__ = [
    "Atlas",
    "Cka",
    "EntropyNeurons",
    "LensStudy",
    "LesionedBenchmarks",
    "LesionedLearning",
    "Lesions",
    "LocalAttentionStudy",
    "ManyLesions",
    "NeuronsStudy",
    "NormsStudy",
    "TokenLesions",
    "Voting",
    "Wic",
    "WordIdentity",
    "WordMerging",
    "benchmarks",
    "cka",
    "compare_atlases",
    "entropy_neurons",
    "find_neurons",
    "in_context_atlas",
    "layer_lesions",
    "lesioned_icl",
    "local_attention",
    "logit_lens",
    "many_lesions",
    "neuron_tokens",
    "neurons",
    "norms",
    "stages_atlas",
    "token_lesions",
    "voting",
    "wic",
    "word_identity",
    "word_merging",
]
