"""What a TransformerBridge adds to the promises of test_block.py and test_blockwise.py: edits, traps, refusals, and memory."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

import mechicl as mi
from mechicl.errors import InputError
from mechicl.library import chosen
from mechicl.models import blockwise, hooked, provenance, runs_by_block
from mechicl.models.convert import convert
from mechicl.models.processing import Processing
from mechicl.models.provenance import weight_digest
from mechicl.patches import IsolateLabels
from mechicl.probes import SaliencyFlow
from tests import tiny
from tests.contract import catalogue

DIGEST = "4c8dda34027e73d83745dc17c409ee8932920bb1a8a4bac568b294fb9305f4c0"
"""Of the tiny GPT-2's weights, with TransformerLens 3.9 and with 4."""
BRIDGES = list(dict.fromkeys([*(family for family in tiny.cases if family.endswith("/bridge")), "opt/bridge"]))
if os.environ.get("MECHICL_MATRIX"):
    BRIDGES += [f"{family}/bridge" for family in tiny.new]


def same(found, expected, tolerance=1e-5):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"relative error {error:.1e}"


def test_an_interrupted_check_of_a_bridge_is_made_again(monkeypatch):
    net = hooked(tiny.fresh("gpt2/bridge"))
    net._findings = None
    monkeypatch.setattr("mechicl.models.bridge.examine", lambda net: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _ = net.findings
    assert net._findings is None


@pytest.fixture(params=BRIDGES)
def net(request):
    return hooked(tiny.fresh(request.param).requires_grad_(False))


def test_a_bridge_of_the_users_own_making_is_a_model():
    from mechicl.library import build_bridge

    raw = build_bridge(copy.deepcopy(tiny.huggingface("llama")), "mine")
    raw.tokenizer = tiny.tokenizer()
    assert mi.load_model(raw) is raw
    assert runs_by_block(hooked(raw))
    found = mi.run(raw, catalogue.prompts(), patches=[IsolateLabels((0,))], progress=None)
    same(
        found.label_logits, mi.run(tiny.model("llama"), catalogue.prompts(), patches=[IsolateLabels((0,))]).label_logits
    )


def test_it_computes_what_hugging_face_computes(net):
    tokens = tiny.tokens(2, 40)
    expected = tiny.huggingface(net.name.removeprefix("tiny-"))(tokens).logits
    with torch.no_grad():
        same(net.read(net.forward(tokens)), expected)
        with net.hooks([(name, lambda value, hook: None) for name in net.hook_names()]):
            same(net.read(net.forward(tokens)), expected)


def test_an_edit_between_attention_and_mlp_acts_on_the_residual_too(net):
    """In a HookedTransformer it does; a Bridge's hook point there is the input of the norm before the MLP alone."""
    name, tokens = "blocks.1.hook_resid_mid", tiny.tokens(1, 9)
    assert (name in net.hook_names()) == (not net.sizes.parallel)
    if net.sizes.parallel:
        return
    shift = torch.randn(net.sizes.d_model, generator=torch.Generator().manual_seed(0))
    # The same by the only other way into the residual: what attention writes.
    with net.hooks([("blocks.1.hook_attn_out", lambda value, hook: value + shift)]):
        expected = net.forward(tokens)
    with net.hooks([(name, lambda value, hook: value + shift)]):
        same(net.forward(tokens), expected)
    assert (net.forward(tokens) - expected).abs().max() > 1e-2


def test_nothing_is_held_after_gradients(net):
    seen = []
    with net.hooks([("blocks.0.attn.hook_pattern", lambda value, hook: seen.append(weakref.ref(value)))]):
        mi.run(net.raw, catalogue.prompts()[:1], [SaliencyFlow()], progress=None)
    copy.deepcopy(net.raw)
    gc.collect()
    assert seen
    assert all(reference() is None for reference in seen)


def test_rows_that_hooks_mask_entirely_attend_to_nothing(net):
    hide = [("blocks.1.attn.hook_attn_scores", lambda scores, hook: torch.full_like(scores, -torch.inf))]
    with torch.no_grad(), net.hooks([*hide, ("blocks.1.attn.hook_pattern", lambda value, hook: seen.append(value))]):
        seen = []
        assert net.forward(tiny.tokens()).isfinite().all()
    assert not seen[0].any()


def test_modules_of_the_users_own_run(net):
    """A function put on one of Hugging Face's modules, and a module in the place of a wrapper, act in both paths."""
    tokens, before = tiny.tokens(), net.forward(tiny.tokens())
    inner = net.raw.blocks[1].attn.o.original_component
    inner.forward = lambda x: type(inner).forward(inner, x) * torch.linspace(1, 2, net.sizes.d_model)
    assert (net.forward(tokens) - before).abs().max() > 1e-3
    same(net.forward(tokens), net.whole(tokens))
    del inner.forward
    layer = net.raw.blocks[1].original_component
    block = net.raw.blocks[1]
    wrappers = (block.mlp, block.ln2) if hasattr(block, "ln2") else (block.mlp,)  # OPT's MLP is no module
    name = next(name for name, part in layer.named_children() if part in wrappers)
    setattr(layer, name, torch.nn.Identity())
    assert (net.forward(tokens) - before).abs().max() > 1e-3
    same(net.forward(tokens), net.whole(tokens))


def test_edited_weights_act_at_once_though_projections_are_joint(net):
    tokens = tiny.tokens()
    before = net.forward(tokens)
    with torch.no_grad():
        net.raw.blocks[0].attn.v.original_component.weight[::2].mul_(2)
    same(net.forward(tokens), net.whole(tokens))
    assert (net.forward(tokens) - before).abs().max() > 1e-3


def test_provenance_names_the_users_hooks_and_not_the_librarys(net):
    net.forward(tiny.tokens())
    assert "hooked" not in provenance(net.raw)
    net.raw.blocks[1].hook_resid_post.add_hook(lambda value, hook: None)
    assert provenance(net.raw)["hooked"]


def test_the_digest_is_of_the_weights_that_compute():
    """Names, shapes and numbers of the weights alone, which no version of TransformerLens changes."""
    model = tiny.fresh("gpt2/bridge")
    assert weight_digest(model) == weight_digest(tiny.fresh("gpt2/bridge"))
    assert weight_digest(model) == DIGEST
    with torch.no_grad():
        model.blocks[2].attn.q.original_component.weight[3, 4] += 1e-3
    assert weight_digest(model) != DIGEST


def test_a_model_without_a_final_norm_is_refused():
    """OPT-350m: its norms come after sublayers, and it projects its embedding in and out."""
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    config = OPTConfig(**sizes, word_embed_proj_dim=16, do_layer_norm_before=False, max_position_embeddings=64)
    with pytest.raises(InputError, match=r"^tiny-opt-350m has no norm before its unembedding"):
        convert(AutoModelForCausalLM.from_config(config), Processing(), name="tiny-opt-350m", backend="bridge")


def test_a_backend_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="backend is 'fast'; give 'hooked', 'bridge'"):
        mi.load_model("tiny-icl", backend="fast")
    if tiny.HOOKED:
        assert (chosen(None), chosen("bridge")) == ("hooked", "bridge")
        return
    assert chosen(None) == "bridge"
    with pytest.raises(InputError, match=r"^TransformerLens 4.* has no HookedTransformer; leave backend out"):
        mi.load_model("tiny-icl", backend="hooked")


@pytest.mark.parametrize("processing", ["none", "fold"])
def test_the_shipped_model_loads_as_a_bridge(processing):
    model = mi.load_model("tiny-icl", backend="bridge", processing=processing)
    assert type(model).__name__ == "TransformerBridge"
    assert blockwise(model, "This").unsupported_reason is None
    assert model.tokenizer("good")["input_ids"] == mi.load_model("tiny-icl").tokenizer("good")["input_ids"]
    if tiny.HOOKED:
        nets = [hooked(one) for one in (model, mi.load_model("tiny-icl", processing=processing))]
        with torch.no_grad():
            ours, theirs = (net.read(net.forward(tiny.tokens())).log_softmax(-1) for net in nets)
        same(ours, theirs)


def test_a_filter_edits_every_point_once_whatever_its_names(net):
    """A Bridge has several names for one hook point; TransformerLens hooks it once."""

    @dataclass(frozen=True)
    class Halve(mi.Patch):
        points: object

        def hooks(self, model, batch):
            return [(self.points, lambda value, hook: value * 0.5)]

    one = "blocks.1.hook_mlp_out"
    names = {name for name in net.hook_names() if len(net.distinct({name, one})) == 1}
    assert len(names) > 1, "the control"
    by_filter, by_name = (
        mi.run(net, catalogue.prompts(), patches=[Halve(points)], progress=None).label_logits
        for points in (names.__contains__, one)
    )
    torch.testing.assert_close(by_filter, by_name)
