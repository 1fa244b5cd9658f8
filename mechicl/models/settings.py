"""Configurations that TransformerLens 3.9 cannot read from a directory, though it converts the weights.

It finds Gemma's sizes only by hub name, and asks Phi for a field that transformers 5 has moved. What is
written here is checked like everything else: a converted model's logits are compared with the original's.
"""

from __future__ import annotations

from typing import Any


def known_settings(hf_config: Any, architecture: str) -> dict[str, Any] | None:
    """`HookedTransformerConfig` fields for Gemma, Gemma-2 and Phi; None for what TransformerLens reads by
    itself.
    """
    known = {"GemmaForCausalLM": _gemma, "Gemma2ForCausalLM": _gemma2, "PhiForCausalLM": _phi}
    return _sizes(hf_config) | known[architecture](hf_config) if architecture in known else None


def _sizes(hf_config: Any) -> dict[str, Any]:
    return {
        "d_model": hf_config.hidden_size,
        "n_heads": hf_config.num_attention_heads,
        "d_mlp": hf_config.intermediate_size,
        "n_layers": hf_config.num_hidden_layers,
        "n_ctx": hf_config.max_position_embeddings,
        "d_vocab": hf_config.vocab_size,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": hf_config.rope_parameters["rope_theta"],
    }


def _phi(hf_config: Any) -> dict[str, Any]:
    d_head = hf_config.hidden_size // hf_config.num_attention_heads
    return {
        "d_head": d_head,
        "eps": hf_config.layer_norm_eps,
        "act_fn": hf_config.hidden_act,
        "normalization_type": "LN",
        "rotary_dim": int(hf_config.rope_parameters["partial_rotary_factor"] * d_head),
        "parallel_attn_mlp": True,
    }


def _gemma(hf_config: Any) -> dict[str, Any]:
    return {
        "d_head": hf_config.head_dim,
        "n_key_value_heads": hf_config.num_key_value_heads,
        "eps": hf_config.rms_norm_eps,
        "act_fn": getattr(hf_config, "hidden_activation", None) or hf_config.hidden_act,
        "normalization_type": "RMS",
        "rotary_dim": hf_config.head_dim,
        "gated_mlp": True,
        "final_rms": True,
    }


def _gemma2(hf_config: Any) -> dict[str, Any]:
    kinds = {"sliding_attention": "local", "full_attention": "global"}
    return _gemma(hf_config) | {
        "attn_scale": hf_config.query_pre_attn_scalar**0.5,
        "attn_types": [kinds[kind] for kind in hf_config.layer_types],
        "use_local_attn": True,
        "window_size": hf_config.sliding_window,
        "attn_scores_soft_cap": hf_config.attn_logit_softcapping or -1.0,  # -1: TransformerLens's "no cap"
        "output_logits_soft_cap": hf_config.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
    }
