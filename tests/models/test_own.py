"""A module that somebody has replaced, subclassed or patched is run, never computed past."""

from __future__ import annotations

from types import MethodType

import pytest
import torch
from torch import nn
from transformer_lens.components import MLP, LayerNorm, RMSNorm

from mechicl.engines.compression import compress
from mechicl.engines.prefix import run_shared
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.patches import Drop, IsolateLabels
from tests import tiny
from tests.contract import catalogue


def subclassed(module, factor=0.5):
    """The same module, whose class now scales what its forward pass gives."""
    kind = type(module)
    module.__class__ = type("Scaled", (kind,), {"forward": lambda self, *a, **k: kind.forward(self, *a, **k) * factor})


def overridden(module):
    plain = module.forward
    module.forward = lambda *args, **options: plain(*args, **options) * 0.5


class Shift(nn.Module):
    """An MLP that also reads the position before: right on whole sequences alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x + torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1))


def at(path, change):
    def make(model):
        change(model.get_submodule(path))

    return make


def uncausal_scores(model):
    def scores(self, q, k):
        return type(self).calculate_attention_scores(self, q, k) * 0.3

    model.blocks[1].attn.calculate_attention_scores = MethodType(scores, model.blocks[1].attn)


def other_activation(model):
    model.blocks[1].mlp.act_fn = torch.tanh


def activation_module(model):
    model.blocks[1].mlp.act_fn = nn.Tanh()


def replaced_mlp(model):
    model.blocks[1].mlp = Shift(model.blocks[1].mlp)


def parametrized(model):
    class Half(nn.Module):
        def forward(self, weight):
            return weight * 0.5

    nn.utils.parametrize.register_parametrization(model.blocks[1].attn, "W_Q", Half())


def module_hook(model):
    model.blocks[1].ln1.register_forward_hook(lambda module, args, out: out * 0.5)


CHANGES = {
    "a subclassed block": ("gpt2", at("blocks.1", subclassed), "blocks.1 is a Scaled of your own"),
    "a subclassed attention": ("llama", at("blocks.1.attn", subclassed), "blocks.1.attn is a Scaled"),
    "a subclassed norm": ("gptj", at("blocks.1.ln1", subclassed), "blocks.1.ln1 is a Scaled"),
    "a subclassed norm after the attention": ("gemma2", at("blocks.1.ln1_post", subclassed), "blocks.1.ln1_post is"),
    "a subclassed norm of the keys": ("qwen3", at("blocks.1.attn.k_norm", subclassed), "blocks.1.attn.k_norm is"),
    "a subclassed hook point": ("gpt2", at("blocks.1.attn.hook_z", subclassed), "blocks.1.attn.hook_z is a Scaled"),
    "a forward of a hook point": ("gpt2", at("blocks.1.mlp.hook_post", overridden), "blocks.1.mlp.hook_post"),
    "a forward of its own": ("gpt2", at("blocks.1.mlp", overridden), "blocks.1.mlp.forward is a function of your own"),
    "a patched method": ("llama", uncausal_scores, "blocks.1.attn.calculate_attention_scores is a function"),
    "another activation": ("llama", other_activation, "blocks.1.mlp.act_fn is not the silu"),
    "an activation module": ("gpt2", activation_module, "blocks.1.mlp.act_fn is not the gelu_new"),
    "another MLP": ("gpt2", replaced_mlp, "blocks.1.mlp is a Shift of your own"),
    "a parametrization": ("llama", parametrized, "blocks.1.attn is a Parametrized"),
    "a PyTorch hook on a module": ("gpt2", module_hook, "blocks.1.ln1 has a PyTorch hook"),
    "a subclassed embedding": ("llama", at("embed", subclassed), "embed is a Scaled of your own"),
    "subclassed positions": ("gpt2", at("pos_embed", subclassed), "pos_embed is a Scaled of your own"),
}


def linear_unembedding(model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.unembed = nn.Linear(tiny.D_MODEL, tiny.D_VOCAB)


READING = {
    "a subclassed final norm": ("gpt2", at("ln_final", subclassed)),
    "a subclassed unembedding": ("gemma2", at("unembed", lambda module: subclassed(module, -0.5))),
    "a linear unembedding": ("llama", linear_unembedding),
}


def close(found, expected, tolerance=1e-5):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"relative error {error:.1e}"


@pytest.fixture(params=CHANGES)
def changed(request):
    """A model with a module of the user's own, and what a refusal calls it."""
    family, change, name = CHANGES[request.param]
    model = tiny.fresh(family).requires_grad_(False)
    change(model)
    return model, name


def plain_difference(model):
    """How far the model is from its family's, in its own logits: the change is not one of nothing."""
    tokens = tiny.tokens()
    return (model(tokens) - tiny.model(model.cfg.model_name.removeprefix("tiny-"))(tokens)).abs().max()


def test_it_runs_in_whole_passes(changed):
    model, _ = changed
    net, tokens = hooked(model), tiny.tokens(2, 12)
    assert plain_difference(model) > 1e-3
    logits = net.read(net.forward(tokens))
    close(logits, model(tokens))
    heard = []
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    with net.hooks([(name, lambda value, hook: heard.append(hook.name)) for name in names]):
        close(net.read(net.forward(tokens)), logits)
    assert heard == names


def test_blocks_on_cached_keys_are_refused_by_name(changed):
    model, name = changed
    net = hooked(model)
    assert name in net.unsupported_reason
    with pytest.raises(InputError, match=f"In {model.cfg.model_name} {name}"):
        compress(model, catalogue.prompts()[0])


def test_engines_fall_back_or_use_whole_blocks(changed):
    model, _ = changed
    prompts, tokens = catalogue.prompts(), tiny.tokens(2, 12)
    patch = IsolateLabels((2,))
    shared = run_shared(model, prompts, patches=[patch]).label_logits
    close(shared, run(model, prompts, patches=[patch]).label_logits)
    swept = lesion_sweep(model, tokens, [Drop(2)], top_k=0)
    clean = model(tokens).log_softmax(-1)
    with Drop(2).on(model):
        dropped = model(tokens).log_softmax(-1)
    expected = (clean.exp() * (clean - dropped)).sum(-1)
    close(swept.kl[0], expected, 1e-3)


@pytest.mark.parametrize("kind", READING)
def test_a_final_norm_or_unembedding_of_ones_own_reads(kind):
    family, change = READING[kind]
    model = tiny.fresh(family).requires_grad_(False)
    change(model)
    net, tokens = hooked(model), tiny.tokens(2, 12)
    assert plain_difference(model) > 1e-3
    assert net.unsupported_reason is None  # blocks are TransformerLens's own
    expected = model(tokens)
    resid = net.forward(tokens)
    close(net.read(resid), expected)
    heard = []
    hooks = [("ln_final.hook_normalized", lambda value, hook: heard.append(hook.name) or value * 0)]
    with net.hooks(hooks):
        close(net.lens(resid), expected)
        close(net.lens(resid[0, -1], torch.tensor([3, 7])), expected[0, -1, [3, 7]])
        tiles = list(net.lens_tiles(resid.flatten(0, 1), 100))
        assert heard == []
        assert net.read(resid).abs().max() < expected.abs().max()
        assert heard
    assert [start for start, _ in tiles] == [0, 100, 200, 300]
    close(torch.cat([tile for _, tile in tiles], 1), expected.flatten(0, 1))
    if not hasattr(model.unembed, "W_U"):
        with pytest.raises(InputError, match="has no W_U: its unembed is a Linear"):
            net.W_U  # noqa: B018


@pytest.mark.parametrize(("kind", "name"), [(MLP, "forward"), (RMSNorm, "forward"), (LayerNorm, "forward")])
def test_a_class_patched_for_all_its_modules_is_seen_and_forgotten(kind, name, monkeypatch):
    family = "llama" if kind is RMSNorm else "gpt2"
    net, tokens = hooked(tiny.fresh(family).requires_grad_(False)), tiny.tokens()
    before, plain = net.forward(tokens), kind.forward
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, lambda self, x: plain(self, x) * 0.5)
        close(net.read(net.forward(tokens)), net.raw(tokens))
        close(net.lens(net.forward(tokens)), net.raw(tokens))
        assert (net.forward(tokens) - before).abs().max() > 1e-3
        assert f"{kind.__name__}.forward is a function of your own" in net.unsupported_reason
    close(net.forward(tokens), before, 1e-7)
    assert net.unsupported_reason is None


def test_a_block_that_was_swapped_for_another_of_its_kind_is_no_stranger():
    """Hooks in a module that came later are heard, though TransformerLens has not listed its hook points."""
    model, other = tiny.fresh("gpt2").requires_grad_(False), tiny.fresh("gpt2").requires_grad_(False)
    net, tokens = hooked(model), tiny.tokens()
    net.forward(tokens)
    model.blocks[1].mlp = other.blocks[2].mlp
    model.blocks[1].mlp.cfg = model.cfg
    assert net.unsupported_reason is None
    model.blocks[1].mlp.hook_post.add_hook(lambda value, hook: value * 0.5)
    close(net.read(net.forward(tokens)), model(tokens))


def test_extra_modules_that_nobody_calls_change_nothing():
    model = tiny.fresh("gpt2")
    model.blocks[1].adapter = nn.Linear(2, 2)
    model.classifier = nn.Linear(2, 2)
    assert hooked(model).unsupported_reason is None


@pytest.mark.parametrize("family", [*tiny.families, "bloom"])
def test_a_whole_block_is_transformer_lens_s(family):
    """Also where the architecture has an unsupported_reason to cached keys."""
    net, tokens = hooked(tiny.model(family)), tiny.tokens(2, 12)
    resid = net.embed(tokens)
    with torch.no_grad():
        for layer in range(net.sizes.n_layers):
            resid = net.whole_block(layer, resid)
        close(net.read(resid), net.raw(tokens))


def test_a_model_s_own_forward_pass():
    model = tiny.fresh("gpt2").requires_grad_(False)
    plain = model.forward
    model.forward = lambda *args, **options: plain(*args, **options) * 0.5
    net, tokens = hooked(model), tiny.tokens()
    torch.testing.assert_close(net.forward(tokens), plain(tokens, stop_at_layer=3) * 0.5)
    with pytest.raises(InputError, match=r"HookedTransformer.forward is a function of your own"):
        compress(model, catalogue.prompts()[0])


def test_a_mixture_of_experts_runs_as_it_is():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_mlp=16, d_vocab=tiny.D_VOCAB, act_fn="silu", seed=0,
        gated_mlp=True, num_experts=3, experts_per_token=2, normalization_type="RMS", device="cpu",
        positional_embedding_type="rotary", rotary_dim=8,
    )  # fmt: skip
    net, tokens = hooked(HookedTransformer(cfg).requires_grad_(False)), tiny.tokens(2, 12)
    assert net.unsupported_reason is None
    close(net.read(net.forward(tokens)), net.raw(tokens))
    before = net.forward(tokens)
    subclassed(net.raw.blocks[1].mlp.experts[0])
    close(net.read(net.forward(tokens)), net.raw(tokens))
    assert (net.forward(tokens) - before).abs().max() > 1e-4
