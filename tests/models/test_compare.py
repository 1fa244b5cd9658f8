"""What loads is what was asked for: a conversion that drops something, or a folder that disagrees with itself, does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mechicl.errors import InputError
from mechicl.models import compare, load_model
from mechicl.models import convert as convert_module
from mechicl.models.convert import convert
from mechicl.models.processing import Processing
from tests import tiny

SIZES = tiny._SIZES
DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MECHICL_CACHE", str(tmp_path / "cache"))


def spread(model: Any, bias: float = 0.05) -> Any:
    """Random weights under which attention is far from uniform, and biases of this size."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(0.25 * noise)
            elif name.endswith("bias"):
                parameter.copy_(bias * noise)
    return model.eval()


def built(config: Any, bias: float = 0.05) -> Any:
    return spread(transformers.AutoModelForCausalLM.from_config(config), bias)


def saved(model: Any, path: Path) -> Path:
    model.save_pretrained(path)
    return path


def biased_llama() -> Any:
    return built(transformers.LlamaConfig(**SIZES, num_key_value_heads=2, attention_bias=True))


def bloom_of_six_heads() -> Any:
    return built(transformers.BloomConfig(hidden_size=48, n_layer=3, n_head=6, vocab_size=tiny.D_VOCAB))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (biased_llama, r"drops model.layers.0.self_attn.q_proj.bias and \d+ more"),
        (bloom_of_six_heads, "a feature that the converter does not know"),
    ],
)
@pytest.mark.parametrize("memory", ["plenty", "scarce"])
def test_a_wrong_conversion_is_refused_in_every_dtype(
    make: Callable[[], Any], why: str, dtype: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared in float32 where that fits, else by mean error and top-1 agreement."""
    if memory == "scarce":
        monkeypatch.setattr("mechicl.models.loading._fits_in_float32", lambda original: False)
    with pytest.raises(InputError, match=why):
        load_model(saved(make(), tmp_path / "wrong"), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("family", tiny.families)
def test_rounding_is_no_wrong_conversion(family: str, dtype: str) -> None:
    """The control: right conversions pass the bounds of half precision too."""
    import copy

    model = copy.deepcopy(tiny.huggingface(family)).to(getattr(torch, dtype))
    assert convert(model, Processing(), name=family).W_E.dtype == getattr(torch, dtype)


def test_a_zero_bias_that_is_dropped_changes_nothing_and_loads(tmp_path: Path) -> None:
    model = built(transformers.LlamaConfig(**SIZES, num_key_value_heads=2, attention_bias=True), bias=0.0)
    assert load_model(saved(model, tmp_path / "llama")).cfg.n_layers == 3


def windowed(window: int, **more: Any) -> Any:
    config = transformers.Qwen2Config(
        **SIZES, num_key_value_heads=2, use_sliding_window=True, sliding_window=window, max_window_layers=1, **more
    )
    return built(config)


@pytest.mark.parametrize("window", [4, 100])
def test_a_window_that_is_dropped_is_refused_by_name(window: int, tmp_path: Path) -> None:
    """TransformerLens drops Qwen2's sliding windows; a short comparison would not see one of 100 tokens."""
    path = saved(windowed(window), tmp_path / "qwen")
    with pytest.raises(InputError, match=rf"layer 1 .* sees a window of {window} tokens, .* pass n_ctx={window}"):
        load_model(path)
    assert load_model(path, n_ctx=window).cfg.n_ctx == window  # within the window nothing is lost


def test_a_comparison_goes_beyond_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where nobody looks at configurations, tokens beyond the window show it."""
    monkeypatch.setattr(convert_module, "check_windows", lambda *_: None)
    with pytest.raises(InputError, match="wrongly: its configuration has a feature"):
        load_model(saved(windowed(100), tmp_path / "qwen"))


def longrope(n_ctx: int) -> Any:
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    return built(
        transformers.Phi3Config(
            **{**SIZES, "max_position_embeddings": n_ctx}, num_key_value_heads=2, pad_token_id=0, rope_parameters=rope,
            original_max_position_embeddings=64,
        )
    )  # fmt: skip


@pytest.mark.parametrize("n_ctx", [512, 131_072])
def test_a_long_context_does_not_hide_a_threshold(n_ctx: int, tmp_path: Path) -> None:
    """TransformerLens drops Phi-3's scaled rotations, which act from 64 tokens on."""
    with pytest.raises(InputError, match="wrongly"):
        load_model(saved(longrope(n_ctx), tmp_path / "phi3"))


def test_a_threshold_that_is_too_far_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechicl.models.compare._ONCE", 1e7)
    monkeypatch.setattr("mechicl.models.compare._AFFORDABLE", 1e7)
    config = transformers.MistralConfig(**{**SIZES, "max_position_embeddings": 8192}, num_key_value_heads=2)
    with pytest.warns(UserWarning, match="computes differently beyond 4096 tokens"):
        load_model(saved(built(config), tmp_path / "mistral"))


def test_scaled_rotations_are_compared_beyond_the_length_from_which_they_act(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    config = transformers.LlamaConfig(**{**SIZES, "max_position_embeddings": 64}, rope_parameters=rope)
    path = saved(built(config), tmp_path / "llama")
    assert load_model(path).cfg.n_ctx == 64
    with pytest.raises(InputError, match="wrongly"):
        load_model(path, n_ctx=200)


def test_a_checkpoint_with_more_layers_than_its_configuration_is_refused(tmp_path: Path) -> None:
    path = saved(built(transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": 4})), tmp_path / "llama")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"no place for \(model.layers.3.input_layernorm.weight and 8 more\)"):
        load_model(path)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = saved(built(transformers.Qwen2Config(**SIZES, num_key_value_heads=2)), tmp_path / "qwen")
    llama = transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
    llama.architectures = ["LlamaForCausalLM"]
    llama.save_pretrained(path)
    with pytest.raises(InputError, match=r"no place for \(model.layers.0.self_attn.k_proj.bias and 8 more\)"):
        load_model(path)


@pytest.mark.parametrize("tied", [True, False])
def test_an_unembedding_of_its_own_under_a_configuration_that_ties_it(tied: bool, tmp_path: Path) -> None:
    model = built(transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False))
    path = saved(model, tmp_path / "llama")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    if tied:
        with pytest.raises(InputError, match="holds an unembedding of its own"):
            load_model(path)
    else:
        assert load_model(path).cfg.n_layers == 3


def test_known_buffers_pass_in_silence(tmp_path: Path) -> None:
    path = saved(tiny.huggingface("neox"), tmp_path / "neox")
    weights = load_file(path / "model.safetensors")
    weights["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8)
    weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    weights["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert load_model(path).cfg.n_layers == 3


def test_agreement_is_kept_for_the_same_files_versions_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tiny.huggingface("llama"), tmp_path / "llama")
    made: list[int] = []
    samples = convert_module.samples
    monkeypatch.setattr(convert_module, "samples", lambda *given: made.append(1) or samples(*given))

    def comparisons(**options: Any) -> int:
        made.clear()
        load_model(path, **options)
        return len(made)

    assert [comparisons(), comparisons()] == [1, 0]
    assert [comparisons(processing="fold"), comparisons(processing="fold")] == [1, 0]
    assert comparisons(n_ctx=40) == 1
    assert comparisons(dtype="bfloat16") == 0  # converted and compared in float32
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert comparisons() == 1
    monkeypatch.setattr(compare, "versions", lambda: {"torch": "another"})
    assert comparisons() == 1


def test_a_refusal_is_not_kept(tmp_path: Path) -> None:
    path = saved(biased_llama(), tmp_path / "llama")
    for _ in range(2):
        with pytest.raises(InputError, match="drops"):
            load_model(path)


@pytest.mark.parametrize(
    ("config", "n_ctx"),
    [
        (
            lambda: transformers.MistralConfig(
                **{**SIZES, "max_position_embeddings": 8192}, num_key_value_heads=2, sliding_window=None
            ),
            8192,
        ),
        (
            lambda: transformers.Qwen3Config(
                **{**SIZES, "max_position_embeddings": 8192}, head_dim=8, num_key_value_heads=2
            ),
            8192,
        ),
        (lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=320), 64),
    ],
)
def test_the_context_is_the_configurations(config: Callable[[], Any], n_ctx: int, tmp_path: Path) -> None:
    path = saved(built(config()), tmp_path / "model")
    assert load_model(path).cfg.n_ctx == n_ctx
    lowered = load_model(path, n_ctx=n_ctx // 2)
    assert lowered.cfg.n_ctx == lowered.blocks[0].attn.cfg.n_ctx == n_ctx // 2
    if n_ctx == 64:
        with pytest.raises(InputError, match="has 64 learned positions; pass at most 64"):
            load_model(path, n_ctx=65)
    else:
        assert load_model(path, n_ctx=n_ctx + 1).cfg.n_ctx == n_ctx + 1
    for wrong in (0, 1.5, "10", True):
        with pytest.raises(InputError, match=r"n_ctx is .*; give a whole number"):
            load_model(path, n_ctx=wrong)


def test_a_raised_context_computes_what_the_original_does(tmp_path: Path) -> None:
    model = built(transformers.LlamaConfig(**{**SIZES, "max_position_embeddings": 64}, num_key_value_heads=2))
    hooked = load_model(saved(model, tmp_path / "llama"), n_ctx=3000)
    tokens = tiny.tokens(1, 2500)
    with torch.no_grad():
        torch.testing.assert_close(hooked(tokens), model(tokens).logits, atol=1e-3, rtol=1e-4)


GEMMA3 = {
    "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6, "num_hidden_layers": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        lambda: transformers.Gemma3TextConfig(**{**SIZES, **GEMMA3}),
        lambda: transformers.OlmoConfig(**SIZES, clip_qkv=1.5),
        lambda: transformers.Olmo2Config(**SIZES),
        lambda: transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=5),
        lambda: transformers.GPTNeoConfig(
            hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=300, vocab_size=320, window_size=70,
            attention_types=[[["global", "local"], 1]],
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("processing", ["none", "fold"])
def test_architectures_that_transformer_lens_knows_by_name_only_or_windows(
    config: Callable[[], Any], processing: str, tmp_path: Path
) -> None:
    model = built(config())
    hooked = load_model(saved(model, tmp_path / "my-model"), processing=processing)
    tokens = tiny.tokens(2, 90)
    with torch.no_grad():
        expected, found = model(tokens).logits.log_softmax(-1), hooked(tokens).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_adapters_and_quantised_checkpoints_are_sentences(tmp_path: Path) -> None:
    path = saved(tiny.huggingface("llama"), tmp_path / "llama")
    config = json.loads((path / "config.json").read_text())
    for method in ("gptq", "awq", "bitsandbytes", "fp8"):
        (path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
        with pytest.raises(InputError, match=rf"are quantised \({method}\)"):
            load_model(path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    save_file({"a": torch.ones(1)}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"holds a PEFT adapter, not a model; merge it"):
        load_model(adapter)
