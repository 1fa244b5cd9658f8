"""*The Remarkable Robustness of LLMs: Stages of Inference?* (Lad et al. 2024); an experiment a file."""

from mechicl.studies.stages.lens import LensStudy, logit_lens
from mechicl.studies.stages.lesions import Lesions, layer_lesions
from mechicl.studies.stages.local_attention import LocalAttentionStudy, local_attention
from mechicl.studies.stages.word_merging import WordMerging, word_merging

__all__ = [
    "LensStudy",
    "Lesions",
    "LocalAttentionStudy",
    "WordMerging",
    "layer_lesions",
    "local_attention",
    "logit_lens",
    "word_merging",
]
