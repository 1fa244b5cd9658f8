"""The weights and the tokenizer of tiny-icl, from the package's own files to a model of TransformerLens's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mechicl.files.json_files import read_object
from mechicl.library import Backend, build_bridge, chosen

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

_FILES = files("mechicl.shipped") / "tiny_icl"


def load_tiny_icl(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, backend: Backend | None = None
) -> HookedTransformer | TransformerBridge:
    """The shipped model as a `HookedTransformer` or, with TransformerLens 4, a `TransformerBridge`; see `load_model`.

    Its tokenizer adds no BOS by itself.

    The file has the weights in float16; they are exact in float32, in which the model was evaluated.
    """
    sizes, weights = read_weights()
    if chosen(backend) == "bridge":
        model: Any = build_bridge(to_neox(sizes, weights), "tiny-icl")
    else:
        model = to_hooked(sizes, weights)
    model.to(torch.device(device), print_details=False).to(dtype, print_details=False)
    return with_tokenizer(model)


def with_tokenizer(model: Any) -> Any:
    """The model with tiny-icl's tokenizer, which adds no BOS."""
    # Not by set_tokenizer, which rebuilds the tokenizer so that it prepends BOS.
    model.tokenizer = load_tokenizer()
    model.cfg.default_prepend_bos = False
    model.cfg.tokenizer_prepends_bos = False
    return model


def load_tokenizer() -> PreTrainedTokenizerFast:
    """The shipped model's tokenizer. It adds nothing by itself; BOS is also end and padding."""
    from transformers import PreTrainedTokenizerFast

    with as_file(_FILES) as folder:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))


def weights_digest() -> str:
    """SHA-256 of the files with the sizes and the weights."""
    files_together = (_FILES / "config.json").read_bytes() + (_FILES / "model.safetensors").read_bytes()
    return hashlib.sha256(files_together).hexdigest()


def read_weights() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The sizes of the shipped model, and its weights in float32, by their names in training."""
    from safetensors.torch import load_file

    with as_file(_FILES) as folder:
        sizes = read_object(folder / "config.json", "configuration of tiny-icl", remedy="install mechicl again")
        weights = load_file(folder / "model.safetensors")
    return sizes, {name: tensor.float() for name, tensor in weights.items()}


def to_hooked(sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> HookedTransformer:
    """A trained network as a HookedTransformer without a tokenizer, on the CPU in float32."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    d_head = sizes["d_model"] // sizes["n_heads"]
    config = HookedTransformerConfig(
        **sizes,
        model_name="tiny-icl",
        d_head=d_head,
        act_fn="gelu",
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=d_head,
        rotary_adjacent_pairs=False,
        original_architecture="tiny-icl",
        device="cpu",
    )
    hooked = HookedTransformer(config)
    missing = hooked.load_state_dict(_hooked_weights(weights, sizes["n_layers"], sizes["n_heads"]), strict=False)
    unset = [name for name, _ in hooked.named_parameters() if name in missing.missing_keys]
    if unset or missing.unexpected_keys:
        raise RuntimeError(f"The weights do not fit a HookedTransformer: {unset + missing.unexpected_keys}.")
    hooked.eval()
    return hooked


def to_neox(sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> GPTNeoXForCausalLM:
    """A trained network as a GPT-NeoX with attention before the MLP, on the CPU in float32."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=sizes["d_vocab"],
        hidden_size=sizes["d_model"],
        num_hidden_layers=sizes["n_layers"],
        num_attention_heads=sizes["n_heads"],
        intermediate_size=sizes["d_mlp"],
        max_position_embeddings=sizes["n_ctx"],
        hidden_act="gelu",
        layer_norm_eps=sizes["eps"],
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": sizes["rotary_base"], "partial_rotary_factor": 1.0},
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPTNeoXForCausalLM(config).eval()
    model.set_output_embeddings(torch.nn.Linear(sizes["d_model"], sizes["d_vocab"]))  # with a bias, unlike GPT-NeoX
    body, head = model.gpt_neox, model.get_output_embeddings()
    modules = {"embed": body.embed_in, "ln_final": body.final_layer_norm, "unembed": head}
    for number, layer in enumerate(body.layers):
        parts = {
            "ln1": layer.input_layernorm,
            "ln2": layer.post_attention_layernorm,
            "qkv": layer.attention.query_key_value,
            "out": layer.attention.dense,
            "mlp_in": layer.mlp.dense_h_to_4h,
            "mlp_out": layer.mlp.dense_4h_to_h,
        }
        modules |= {f"blocks.{number}.{name}": module for name, module in parts.items()}
    n_heads = sizes["n_heads"]
    with torch.no_grad():
        for place, module in modules.items():
            for name, parameter in module.named_parameters():
                tensor = weights[f"{place}.{name}"]
                if place.endswith(".qkv"):  # GPT-NeoX stores a head's query, key and value together
                    tensor = tensor.view(3, n_heads, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
                parameter.copy_(tensor)
    return model


def _hooked_weights(weights: Mapping[str, Tensor], n_layers: int, n_heads: int) -> dict[str, Tensor]:
    """The weights by their TransformerLens names and layouts, e.g. W_Q `head d_model d_head`."""
    renamed = {
        "embed.W_E": weights["embed.weight"],
        "ln_final.w": weights["ln_final.weight"],
        "ln_final.b": weights["ln_final.bias"],
        "unembed.W_U": weights["unembed.weight"].T,
        "unembed.b_U": weights["unembed.bias"],
    }
    for block in (f"blocks.{layer}" for layer in range(n_layers)):
        for norm in ("ln1", "ln2"):
            renamed[f"{block}.{norm}.w"] = weights[f"{block}.{norm}.weight"]
            renamed[f"{block}.{norm}.b"] = weights[f"{block}.{norm}.bias"]
        for side in ("in", "out"):
            renamed[f"{block}.mlp.W_{side}"] = weights[f"{block}.mlp_{side}.weight"].T
            renamed[f"{block}.mlp.b_{side}"] = weights[f"{block}.mlp_{side}.bias"]
        weight, bias = weights[f"{block}.qkv.weight"], weights[f"{block}.qkv.bias"]
        by_head = weight.view(3, n_heads, -1, weight.shape[1]), bias.view(3, n_heads, -1)
        for letter, W, b in zip("QKV", *by_head, strict=True):
            renamed[f"{block}.attn.W_{letter}"] = W.mT
            renamed[f"{block}.attn.b_{letter}"] = b
        renamed[f"{block}.attn.W_O"] = weights[f"{block}.out.weight"].T.reshape(n_heads, -1, weight.shape[1])
        renamed[f"{block}.attn.b_O"] = weights[f"{block}.out.bias"]
    return {name: tensor.detach().clone().contiguous() for name, tensor in renamed.items()}
