"""Models: loading them, and the two layers of the interface through which mechicl uses them.

`load_model` returns a `HookedTransformer` or a `TransformerBridge`. `hooked` returns its adapter, which probes, patches
and `run` use; `blockwise` returns the larger interface that engines need.
"""

from mechicl.models.adapter import Adapter, Hook, Model, Sizes, frozen, hooked
from mechicl.models.blockwise import Blockwise, KeyValues, blockwise, runs_by_block
from mechicl.models.loading import load_model
from mechicl.models.provenance import provenance
from mechicl.models.recompute import forward_recomputed, graph_bytes, prompts_at_once
from mechicl.models.repeated_rows import equal_rows
from mechicl.models.tokenizers import check_same_tokenizer, tokenizer_digest
from mechicl.models.untrained import has_twin, untrained, untrained_twin

__all__ = [
    "Adapter", "Blockwise", "Hook", "KeyValues", "Model", "Sizes", "blockwise", "check_same_tokenizer",
    "equal_rows", "forward_recomputed", "frozen", "graph_bytes", "has_twin", "hooked", "load_model", "prompts_at_once",
    "provenance", "runs_by_block", "tokenizer_digest", "untrained", "untrained_twin",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
