"""Configurations that TransformerLens 3.9 cannot read from a folder, though it converts the weights.

It knows the sizes of Gemma and OLMo by hub name only, reads a field of Phi that transformers 5 has moved, and caps the
context of some architectures. These settings are verified like everything else: the logits of a converted model are
compared with the original's.
"""

from __future__ import annotations

from typing import Any

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
"""Names of the longest sequence in configurations."""


def known_settings(hf_config: Any, architecture: str) -> dict[str, Any] | None:
    """`HookedTransformerConfig` fields of an architecture that is described here; None for architectures that
    TransformerLens reads by itself.
    """
    text = hf_config.get_text_config()
    return _sizes(text) | _KNOWN[architecture](text) if architecture in _KNOWN else None


def corrections(hf_config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Sizes that TransformerLens derives although configurations state them: of heads, GPT-2's MLP, and the context."""
    text, found = hf_config.get_text_config(), {}
    if (d_head := getattr(text, "head_dim", None)) and d_head != settings["d_head"]:
        found["d_head"] = d_head
        if settings.get("rotary_dim") == settings["d_head"]:
            found["rotary_dim"] = d_head
    if d_mlp := getattr(text, "n_inner", None):
        found["d_mlp"] = d_mlp
    return found | {"n_ctx": context_length(hf_config) or settings["n_ctx"]}


def context_length(hf_config: Any) -> int | None:
    """The longest sequence in a configuration, in tokens; None if it gives none (Bloom)."""
    text = hf_config.get_text_config()
    return next((int(n) for name in _CONTEXT if (n := getattr(text, name, None))), None)


def windows(hf_config: Any) -> list[int | None]:
    """Number of tokens that each layer of a Hugging Face model sees, including the current one; None: no limit."""
    text = hf_config.get_text_config()
    kinds = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None)
    if kinds is None:  # one window for all layers, as in Mistral
        kinds = ["sliding_attention"] * text.num_hidden_layers
    sizes = {
        "sliding_attention": getattr(text, "sliding_window", None),
        "chunked_attention": getattr(text, "attention_chunk_size", None),
        "local": getattr(text, "window_size", None),
    }
    if getattr(text, "use_sliding_window", True) is False:
        sizes["sliding_attention"] = None
    return [sizes.get(kind) for kind in kinds]


def _sizes(config: Any) -> dict[str, Any]:
    return {
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "d_head": config.hidden_size // config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "act_fn": getattr(config, "hidden_activation", None) or config.hidden_act,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": config.rope_parameters.get("rope_theta"),
    }


def _phi(config: Any) -> dict[str, Any]:
    d_head = config.hidden_size // config.num_attention_heads
    return {
        "eps": config.layer_norm_eps,
        "normalization_type": "LN",
        "rotary_dim": int(config.rope_parameters["partial_rotary_factor"] * d_head),
        "parallel_attn_mlp": True,
    }


def _olmo2(config: Any) -> dict[str, Any]:
    return {"eps": config.rms_norm_eps, "normalization_type": "RMS", "gated_mlp": True}


def _gemma(config: Any) -> dict[str, Any]:
    return _olmo2(config) | {
        "d_head": config.head_dim,
        "n_key_value_heads": config.num_key_value_heads,
        "rotary_dim": config.head_dim,
        "final_rms": True,
    }


def _gemma2(config: Any) -> dict[str, Any]:
    kinds = {"sliding_attention": "local", "full_attention": "global"}
    return _gemma(config) | {
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "attn_types": [kinds[kind] for kind in config.layer_types],
        "use_local_attn": True,
        "window_size": config.sliding_window,
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,  # -1: TransformerLens's "no cap"
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
    }


def _gemma3(config: Any) -> dict[str, Any]:
    rope = config.rope_parameters
    return _gemma2(config) | {
        "use_qk_norm": True,
        "rotary_base": rope["full_attention"]["rope_theta"],
        "rotary_base_local": rope["sliding_attention"]["rope_theta"],
        "rotary_scaling_factor": rope["full_attention"].get("factor", 1.0),
    }


def _olmo(config: Any) -> dict[str, Any]:
    # Its LayerNorm has no parameters, and no setting of epsilon.
    return {"eps": 1e-5, "normalization_type": "LN", "gated_mlp": True, "clip_qkv": config.clip_qkv}


_KNOWN = {
    "GemmaForCausalLM": _gemma,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "OlmoForCausalLM": _olmo,
    "Olmo2ForCausalLM": _olmo2,
    "PhiForCausalLM": _phi,
}
