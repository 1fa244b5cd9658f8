"""The small promises of an adapter: hooks come and go, reading may be silent, weights have a digest."""

from __future__ import annotations

import pytest
import torch

from mechicl.errors import InputError
from mechicl.models import Blockwise, frozen, hooked, provenance
from mechicl.models.adapter import lacking
from mechicl.models.provenance import weight_digest
from tests import tiny


def installed(model):
    """Hooks at each hook point, by the first of its names: a Bridge has old names too."""
    points = {id(point): (name, point) for name, point in reversed(model.hook_dict.items())}
    return {name: len(point._forward_hooks) for name, point in points.values() if point._forward_hooks}


FIRST = "blocks.0.hook_resid_pre" if tiny.HOOKED else "blocks.0.hook_in"


def test_hooked_is_idempotent_and_answers_the_protocol():
    model = tiny.model("gpt2")
    net = hooked(model)
    assert not lacking(net, Blockwise)
    assert hooked(model) is net
    assert hooked(net) is net
    assert net.raw is model
    assert net.name == "tiny-gpt2"
    assert net.tokenizer is model.tokenizer
    copied = tiny.fresh("gpt2")
    assert hooked(copied).raw is copied
    for wrong in (None, "gpt2", type(model), tiny.huggingface("gpt2")):
        with pytest.raises(InputError, match="Expected a HookedTransformer"):
            hooked(wrong)


def test_hooks_edit_and_are_gone_afterwards():
    net, tokens = hooked(tiny.model("gpt2")), tiny.tokens()
    plain = net.forward(tokens)
    with net.hooks([("blocks.1.hook_resid_pre", lambda value, hook: value + 1)]):
        assert (net.forward(tokens) - plain).abs().max() > 1e-2
    assert installed(net.raw) == {}
    torch.testing.assert_close(net.forward(tokens), plain)


def test_hooks_are_gone_after_an_error():
    net = hooked(tiny.model("gpt2"))

    def fail(value, hook):
        raise RuntimeError("in a hook")

    with pytest.raises(RuntimeError, match="in a hook"), net.hooks([("hook_embed", fail)]):
        net.forward(tiny.tokens())
    assert installed(net.raw) == {}


def test_the_users_own_hooks_survive():
    model = tiny.fresh("gpt2")
    net, tokens, heard = hooked(model), tiny.tokens(), []

    def listen(value, hook):
        heard.append(hook.name.replace("hook_in", "hook_resid_pre"))

    model.add_hook("blocks.0.hook_resid_pre", listen)
    with net.hooks([("blocks.0.hook_resid_pre", lambda value, hook: None)]):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", listen)])
    assert heard == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
    assert installed(model) == {FIRST: 1}
    assert len(model.hook_dict["blocks.0.hook_resid_pre"].fwd_hooks) == 1
    # Ours stay inside the user's own contexts, whichever closes first.
    with net.hooks([("hook_embed", listen)]):
        model.reset_hooks()
    assert installed(model) == {}


def test_unknown_and_closed_hook_points():
    net = hooked(tiny.fresh("gpt2"))
    good = ("hook_embed", lambda value, hook: None)
    for name, message in {
        "blocks.1.hook_resid_prex": r"did you mean blocks.1.hook_resid_pre or",
        "blocks.0.attn.hook_result": r"Hook point blocks.0.attn.hook_result is switched off",
    }.items():
        with pytest.raises(InputError, match=message), net.hooks([good, (name, good[1])]):
            pass
    assert installed(net.raw) == {}
    assert "blocks.0.attn.hook_result" not in net.hook_names()
    net.raw.set_use_attn_result(True)
    assert "blocks.0.attn.hook_result" in net.hook_names()


@pytest.mark.parametrize("family", tiny.cases)
@pytest.mark.parametrize("processing", ["none", "fold"])
def test_the_lens_reads_the_last_residual_in_silence(family, processing):
    net = hooked(tiny.fresh(family, processing))
    tokens, heard = tiny.tokens(), []
    with torch.no_grad():
        resid = net.forward(tokens)
        names = ["ln_final.hook_normalized", "ln_final.hook_scale", "unembed.hook_in", "unembed.hook_out"]
        with net.hooks([(name, lambda value, hook, name=name: heard.append(name)) for name in names]):
            lens = net.lens(resid)
            assert heard == []
            read = net.read(resid)
            assert sorted(heard) == sorted(names)
    torch.testing.assert_close(lens, read)
    torch.testing.assert_close(read, net.raw(tokens), rtol=1e-5, atol=1e-5 * float(read.abs().max()))
    torch.testing.assert_close(net.lens(resid[0, -1]), read[0, -1])  # any number of axes before d_model
    edit = [("ln_final.hook_normalized", lambda value, hook: value * 0)]
    with net.hooks(edit):
        assert (net.read(resid) - read).abs().max() > 1e-2


def test_forward_ignores_padding_that_looks_like_padding():
    """With a left-padding tokenizer TransformerLens would mask tokens by their id; here never."""
    model = tiny.fresh("gpt2")
    net, tokens = hooked(model), tiny.tokens()
    tokens[:, :3] = model.tokenizer.pad_token_id
    expected = net.forward(tokens)
    model.tokenizer.padding_side = "left"
    try:
        torch.testing.assert_close(net.forward(tokens), expected)
    finally:
        model.tokenizer.padding_side = "right"


def test_tokens_that_do_not_fit():
    net = hooked(tiny.model("llama"))
    with pytest.raises(InputError, match=f"{tiny.N_CTX + 1} tokens exceed the context"):
        net.forward(tiny.tokens(1, tiny.N_CTX + 1))
    with pytest.raises(InputError, match="outside the vocabulary"):
        net.embed(torch.tensor([[tiny.D_VOCAB]]))


def test_embedding_hooks_fire():
    net, heard = hooked(tiny.model("gpt2")), []

    def listen(name):
        return name, lambda value, hook: heard.append((name, tuple(value.shape)))

    with net.hooks([listen("hook_embed"), listen("hook_pos_embed")]):
        net.embed(tiny.tokens(2, 5))
    assert heard == [("hook_embed", (2, 5, tiny.D_MODEL)), ("hook_pos_embed", (2, 5, tiny.D_MODEL))]


def test_weights():
    net = hooked(tiny.model("llama"))
    assert net.W_U.shape == (tiny.D_MODEL, tiny.D_VOCAB)
    assert net.b_U.shape == (tiny.D_VOCAB,)
    assert net.W_in(0).shape == net.W_out(0).T.shape == (tiny.D_MODEL, 48)


def test_frozen_restores_everything():
    model = tiny.fresh("gpt2").requires_grad_(True)
    model.embed.W_E.requires_grad_(False)
    model.train()
    model.blocks[1].eval()

    def state():
        return [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]

    before = state()
    with frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.training
    assert state() == before
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert state() == before


def test_the_digest_follows_the_weights_and_nothing_else():
    model = tiny.fresh("llama")
    digest = weight_digest(model)
    assert len(digest) == 64
    assert weight_digest(tiny.fresh("llama")) == digest
    with hooked(model).hooks([("hook_embed", lambda value, hook: value + 1)]):
        hooked(model).forward(tiny.tokens())
        assert weight_digest(model) == digest
    if tiny.HOOKED:
        model.blocks[0].attn._extend_rotary_embeddings(16)
    assert weight_digest(model) == digest
    with torch.no_grad():
        model.blocks[2].mlp.W_out[3, 4] += 1e-3
    assert weight_digest(model) != digest
    assert weight_digest(tiny.fresh("llama").to(torch.float64)) != digest


def test_provenance_is_complete():
    found = provenance(tiny.model("gpt2"))
    assert found["name"] == "tiny-gpt2"
    assert found["processing"] == "as given"
    assert (found["dtype"], found["device"]) == ("float32", "cpu")
    assert found["versions"]["transformer-lens"].startswith(("3.", "4."))
