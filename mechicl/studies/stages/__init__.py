"""*The Remarkable Robustness of LLMs: Stages of Inference?* (Lad et al. 2024); an experiment a file."""

from mechicl.studies.stages.lesions import Lesions, layer_lesions

__all__ = ["Lesions", "layer_lesions"]
