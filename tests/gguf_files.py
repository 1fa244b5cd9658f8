"""Tiny GGUF files, written as llama.cpp writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_llama(path: Path, model: Any, *, quantised: bool = False) -> None:
    """A Hugging Face Llama as a GGUF file, with a byte-level tokenizer; quantised to Q8_0 where rows allow it."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, config.vocab_size)
    for name, tensor in _named(model).items():
        if quantised and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, n: int) -> None:
    from tokenizers import pre_tokenizers

    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "go", "od"]
    tokens += [f"<unused{i}>" for i in range(n - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (n - 1))
    writer.add_token_merges(["g o", "o d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _named(model: Any) -> dict[str, np.ndarray]:
    """Weights under llama.cpp's names; queries and keys in its order of rotated pairs."""
    found = {
        "token_embd.weight": model.model.embed_tokens.weight,
        "output_norm.weight": model.model.norm.weight,
        "output.weight": model.lm_head.weight,
    }
    for i, layer in enumerate(model.model.layers):
        found |= {f"blk.{i}.{new}.weight": layer.get_submodule(old).weight for old, new in _NAMES.items()}
    arrays = {name: tensor.detach().float().numpy() for name, tensor in found.items()}
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for name, array in arrays.items():
        for part, n in heads.items():
            if f".{part}." in name:
                rows = array.reshape(n, 2, array.shape[0] // n // 2, array.shape[1])
                arrays[name] = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(array.shape))
    return arrays
