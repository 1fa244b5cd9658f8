"""From a training checkpoint to the files that ship: `python -m benchmarks.tiny_icl.export CHECKPOINT
FOLDER`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.tiny_icl import tokens
from benchmarks.tiny_icl.network import Network, Sizes
from mechicl.files.json_files import read_object


def from_checkpoint(path: Path, prefix: str = "network.") -> Network:
    """The network of a checkpoint of `benchmarks.tiny_icl.train`, rounded to float16 as it ships.

    An exported model has the same weights, without the prefix.
    """
    weights = {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}
    d_vocab, d_model = weights["embed.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    network = Network(Sizes(d_vocab, layers, d_model, d_mlp=len(weights["blocks.0.mlp_in.weight"])))
    network.load_state_dict({name: tensor.half().float() for name, tensor in weights.items()})
    return network.eval()


def export(checkpoint: Path, folder: Path) -> None:
    """Write weights (float16), config and tokenizer."""
    network = from_checkpoint(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(network.sizes.as_dict(), indent=2) + "\n")
    tokens.fast_tokenizer().save_pretrained(str(folder))
    settings = read_object(folder / "tokenizer_config.json", "settings of the tokenizer")
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that every version of transformers knows
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    export(given.checkpoint, given.folder)


if __name__ == "__main__":
    main()
