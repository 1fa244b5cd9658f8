"""*The Remarkable Robustness of LLMs: Stages of Inference?* (Lad et al. 2024); an experiment a file."""

from mechicl.studies.stages.lens import LensStudy, logit_lens
from mechicl.studies.stages.lesions import Lesions, layer_lesions
from mechicl.studies.stages.local_attention import LocalAttentionStudy, local_attention

__all__ = ["LensStudy", "Lesions", "LocalAttentionStudy", "layer_lesions", "local_attention", "logit_lens"]
