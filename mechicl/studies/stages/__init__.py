"""*The Remarkable Robustness of LLMs: Stages of Inference?* (Lad et al. 2024); one experiment per file."""
