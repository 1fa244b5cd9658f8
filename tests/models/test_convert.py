"""A model converted to a HookedTransformer is still the same model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mechicl.errors import InputError
from mechicl.models import hooked
from mechicl.models.convert import convert
from mechicl.models.processing import Processing
from tests import tiny

ALL = [*tiny.families, "gpt2-inverse", "bloom"]


@pytest.mark.parametrize("family", ALL)
def test_logits_are_the_hugging_face_models(family):
    original, model = tiny.pair(family)
    tokens = tiny.tokens(2, 40)
    with torch.no_grad():
        expected, found = original(tokens).logits, model(tokens)
        shifted = original(tokens.roll(1, 1)).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert (shifted - expected).abs().max() > 1e-1  # the control: other inputs do not pass


@pytest.mark.parametrize("family", ALL)
def test_folding_leaves_log_probabilities_alone(family):
    plain, folded = tiny.model(family), tiny.fresh(family, "fold")
    tokens = tiny.tokens()
    with torch.no_grad():
        expected, found = (m(tokens).log_softmax(-1) for m in (plain, folded))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    kind = plain.cfg.normalization_type
    assert (kind, folded.cfg.normalization_type) in {("LN", "LNPre"), ("RMS", "RMSPre")}


def test_value_biases_are_folded_only_on_request():
    assert tiny.fresh("gpt2", "fold").blocks[0].attn.b_V.abs().max() > 0
    how = Processing.named("fold", fold_value_biases=True)
    assert convert(tiny.huggingface("gpt2"), how, name="folded").blocks[0].attn.b_V.abs().max() == 0


def test_centring_is_for_layer_norm_only_and_capped_logits_are_not_centred():
    fold = Processing.named("fold")
    assert Processing.named("fold-uncentred") == replace(fold, center_unembed=False)
    assert fold.possible_for(tiny.model("gpt2").cfg).center_writing_weights
    assert not fold.possible_for(tiny.model("llama").cfg).center_writing_weights
    assert not fold.possible_for(tiny.model("gemma2").cfg).center_unembed
    assert fold.describe(tiny.model("llama").cfg) == "fold_ln+center_unembed"


def test_a_feature_the_converter_drops_is_noticed():
    """TransformerLens ignores Llama's optional attention biases: wrong numbers without a word."""
    import transformers

    config = transformers.LlamaConfig(**tiny._SIZES, attention_bias=True)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("proj.bias"):
            torch.nn.init.normal_(parameter)
    with pytest.raises(InputError, match="converts this LlamaForCausalLM wrongly"):
        convert(model, Processing(), name="biased")


def test_an_architecture_that_transformer_lens_does_not_know():
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(
        transformers.Olmo2Config(**tiny._SIZES, num_key_value_heads=2)
    )
    with pytest.raises(InputError, match="cannot convert this Olmo2ForCausalLM"):
        convert(model.eval(), Processing(), name="olmo")


def test_sizes():
    sizes = hooked(tiny.model("llama")).sizes
    assert (sizes.n_layers, sizes.n_heads, sizes.n_key_value_heads, sizes.d_model, sizes.d_head) == (3, 4, 2, 32, 8)
    assert sizes.gated
    assert not sizes.parallel
    assert hooked(tiny.model("gptj")).sizes.parallel
    assert hooked(tiny.model("gpt2")).sizes.n_key_value_heads == 4
