"""Models: loading them, and the one seam through which mechicl uses them.

`load_model` gives an ordinary `HookedTransformer`; `hooked` wraps it in the few calls that mechicl makes.
"""

from mechicl.models.adapt import frozen, hooked
from mechicl.models.loading import load_model
from mechicl.models.provenance import provenance
from mechicl.models.recompute import forward_recomputed, graph_bytes, prompts_at_once
from mechicl.models.seam import Hook, HookedModel, KeyValues, Sizes
from mechicl.models.vocabulary import check_same_tokenizer, tokenizer_digest

__all__ = [
    "Hook",
    "HookedModel",
    "KeyValues",
    "Sizes",
    "check_same_tokenizer",
    "forward_recomputed",
    "frozen",
    "graph_bytes",
    "hooked",
    "load_model",
    "prompts_at_once",
    "provenance",
    "tokenizer_digest",
]
