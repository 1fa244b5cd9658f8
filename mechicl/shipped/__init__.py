"""tiny-icl: a small transformer that learns in context, the language it speaks, and the recipe that made
it.

A newcomer needs no GPU, no network and no data to see both papers' phenomena: the weights lie in this
package, and the language is generated. `README.md` beside this file says how well the model does and how
it was trained.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import torch

from mechicl.json_files import read_object
from mechicl.shipped.classification import examples, topic_name
from mechicl.shipped.grammar import running_text
from mechicl.shipped.lexicon import LABEL_WORDS, TEMPLATES, TOPICS

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from mechicl.shipped.network import Network

__all__ = [
    "LABEL_WORDS",
    "TEMPLATES",
    "TOPICS",
    "examples",
    "load_network",
    "load_tiny_icl",
    "running_text",
    "topic_name",
]


def load_network() -> Network:
    """The shipped model as a plain PyTorch module, in float32 on the CPU."""
    from safetensors.torch import load_file

    from mechicl.shipped.network import Network, Sizes

    with as_file(files(__name__) / "tiny_icl") as folder:
        sizes = read_object(folder / "config.json", "configuration of tiny-icl", remedy="install mechicl again")
        weights = load_file(folder / "model.safetensors")
    network = Network(Sizes(**sizes))
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network.eval()


def load_tiny_icl(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> HookedTransformer:
    """The shipped model as a `HookedTransformer` with its tokenizer, which adds no BOS by itself.

    The file holds the weights in float16; they are exact in float32, in which the model was evaluated.
    """
    from transformers import PreTrainedTokenizerFast

    from mechicl.shipped.network import to_hooked

    model = to_hooked(load_network())
    model.to(torch.device(device), print_details=False).to(dtype, print_details=False)
    with as_file(files(__name__) / "tiny_icl") as folder:
        # Not through set_tokenizer, which rebuilds the tokenizer so that it prepends BOS.
        model.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    model.cfg.default_prepend_bos = False
    model.cfg.tokenizer_prepends_bos = False
    return model
