"""Try tiny random models of many architectures as each model class; the page `models.md` shows the table.

    python docs/models.py                        (HookedTransformer and Bridge of TransformerLens 3.9)
    PYTHONPATH=build/tl4 python docs/models.py   (the Bridge of TransformerLens 4; `make test-tl4` makes the folder)

Each run replaces the columns of its own version.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from mechicl.errors import InputError
from mechicl.library import has_hooked_transformer
from mechicl.models import hooked, runs_by_block
from mechicl.models.convert import convert
from mechicl.models.processing import Processing

PAGE = Path(__file__).parent / "pages" / "models.json"
_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "GPT2Config": {}, "GPTJConfig": {"rotary_dim": 4}, "GPTNeoXConfig": {},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]], "window_size": 8, "num_layers": 2,
                     "intermediate_size": 128},
    "OPTConfig": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "BloomConfig": {}, "PhiConfig": {},
    "Phi3Config": _GROUPED, "LlamaConfig": _GROUPED, "MistralConfig": _GROUPED | {"sliding_window": 8},
    "MixtralConfig": _GROUPED | {"num_local_experts": 4}, "Qwen2Config": _GROUPED,
    "Qwen3Config": _GROUPED | {"head_dim": 8}, "Qwen3MoeConfig": _GROUPED | _EXPERTS | {"head_dim": 8},
    "GemmaConfig": _GROUPED | {"head_dim": 8}, "Gemma2Config": _GROUPED | {"head_dim": 8, "sliding_window": 8},
    "Gemma3TextConfig": _GROUPED | {"head_dim": 8, "sliding_window": 8}, "OlmoConfig": {}, "Olmo2Config": {},
    "Olmo3Config": {"sliding_window": 8}, "OlmoeConfig": {"num_experts": 4, "num_experts_per_tok": 2},
    "SmolLM3Config": _GROUPED, "GptOssConfig": _GROUPED | {"head_dim": 8, "num_local_experts": 4, "sliding_window": 8},
    "Glm4Config": _GROUPED | {"head_dim": 8}, "GraniteConfig": _GROUPED | {"logits_scaling": 2.0},
    "CohereConfig": _GROUPED, "StableLmConfig": _GROUPED, "Starcoder2Config": _GROUPED, "FalconConfig": {},
}  # fmt: skip


def original(name: str) -> Any:
    """A tiny model with random weights, none of them 0."""
    config = getattr(transformers, name)(**{**_SIZES, **CONFIGS[name]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tried(name: str, backend: Any) -> dict[str, Any]:
    """What one architecture does as one class: whether it loads, folded too, runs block by block, and how exactly."""
    theirs, tokens = original(name), (torch.arange(40) * 7919 % 320)[None]
    with torch.no_grad():
        expected = theirs(tokens).logits.log_softmax(-1)
    row: dict[str, Any] = {"architecture": type(theirs).__name__}
    try:
        net = hooked(convert(copy.deepcopy(theirs), Processing(), name=name, backend=backend))
        with torch.no_grad():
            found = net.read(net.forward(tokens)).log_softmax(-1)
        row |= {"loads": True, "by block": runs_by_block(net), "deviation": float((found - expected).abs().max())}
    except InputError as error:
        return row | {"loads": False, "why": str(error)}
    try:
        convert(copy.deepcopy(theirs), Processing.named("fold"), name=name, backend=backend)
        row["folded"] = True
    except InputError as error:
        row |= {"folded": False, "why": str(error)}
    return row


def table() -> str:
    """The outcome as Markdown: a row per architecture, and for each class how it went."""
    known = json.loads(PAGE.read_text())
    by_name = {kind: {row["architecture"]: row for row in rows} for kind, rows in known.items()}
    names = dict.fromkeys(name for rows in by_name.values() for name in rows)
    lines = ["| architecture | " + " | ".join(by_name) + " |", "|---" * (len(by_name) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_cell(rows.get(name)) for rows in by_name.values()) + " |" for name in names]
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not tried"
    if not row["loads"]:
        return "refused"
    parts = ["by block" if row["by block"] else "whole", "folds" if row["folded"] else "does not fold"]
    return f"{', '.join(parts)}, {row['deviation']:.0e}"


def main() -> None:
    """Try all, and write the outcome next to that of the other version."""
    known = json.loads(PAGE.read_text()) if PAGE.is_file() else {}
    version = "3.9" if has_hooked_transformer() else "4"
    for backend in ("hooked", "bridge") if has_hooked_transformer() else ("bridge",):
        kind = "HookedTransformer" if backend == "hooked" else f"Bridge {version}"
        rows = []
        for name in CONFIGS:
            try:
                rows.append(tried(name, backend))
            except Exception as error:  # a defect of ours, to be seen in the table
                rows.append({"architecture": name, "loads": False, "why": f"{type(error).__name__}: {error}"[:200]})
            print(kind, rows[-1], flush=True)
        known[kind] = rows
        PAGE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
