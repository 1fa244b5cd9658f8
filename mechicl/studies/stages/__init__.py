"""*The Remarkable Robustness of LLMs: Stages of Inference?* (Lad et al. 2024); an experiment a file."""
