"""One block at explicit positions equals the same block inside a whole forward pass, listened to or not."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from mechicl.errors import InputError
from mechicl.models import KeyValues, hooked
from tests import tiny

FAMILIES = [*tiny.cases, "gpt2-inverse"]
HOOKED = pytest.mark.skipif(not tiny.HOOKED, reason="of HookedTransformers alone")


def named(*families):
    """These families, of both classes."""
    return [family for family in FAMILIES if family.removesuffix("/bridge") in families]


def delegates(net):
    """Whether TransformerLens shows scores and pattern of this Bridge only after Hugging Face's module used them."""
    return type(net.raw.blocks[0].attn).__name__ == "AttentionBridge"


def biased(family):
    """A model in which also those biases are non-zero that the family does not train."""
    model = tiny.fresh(family)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.requires_grad_(False)


def whole(net, tokens):
    """TransformerLens's own forward pass up to the last residual."""
    last = []
    handle = net.raw.blocks[-1].hook_resid_post.register_forward_hook(lambda module, args, out: last.append(out))
    try:
        net.raw(tokens, prepend_bos=False, padding_side="right")
    finally:
        handle.remove()
    return last[-1]


def run(net, resid, positions=None, past=None):
    """All blocks, one after the other; their output and each layer's new keys and values."""
    kept = []
    for layer in range(net.sizes.n_layers):
        resid, new = net.block(layer, resid, positions, past and past[layer])
        kept.append(new)
    return resid, kept


def everywhere(net, heard=None):
    """A hook on every hook point inside blocks, which leaves the value alone."""

    def hook(value, hook):
        if heard is not None:
            heard.setdefault(hook.name, []).append(tuple(value.shape))

    return [(name, hook) for name in sorted(net.hook_names()) if name.startswith("blocks.")]


def same(found, expected, tolerance=1e-5):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"relative error {error:.1e}"


@pytest.fixture(params=FAMILIES)
def net(request):
    return hooked(biased(request.param))


@pytest.fixture(params=["silent", "with hooks"])
def listening(request):
    return request.param == "with hooks"


def test_blocks_in_a_row_are_the_forward_pass(net, listening):
    tokens = tiny.tokens(3, 17)
    expected = whole(net, tokens)
    with net.hooks(everywhere(net) if listening else []):
        same(run(net, net.embed(tokens))[0], expected)
    same(net.read(expected), net.raw(tokens, prepend_bos=False))


def test_the_forward_pass_is_that_of_transformer_lens(net, listening):
    """The same residual and the same firings, in the model's own order of blocks and in another."""
    tokens, expected, found = tiny.tokens(3, 17), {}, {}
    for order in (range(net.sizes.n_layers), (0, 2, 1, 1)):
        with net.reordered(order):
            with net.hooks(everywhere(net, expected) if listening else []):
                last = whole(net, tokens)
            with net.hooks(everywhere(net, found) if listening else []):
                same(net.forward(tokens), last)
    assert unrotated(found) == unrotated(expected)


def unrotated(heard):
    """Without rotated queries and keys, which some Bridges' own forward passes show to nobody."""
    return {name: shapes for name, shapes in heard.items() if "hook_rot_" not in name}


@pytest.mark.parametrize("family", named("gpt2", "neox"))
def test_pytorch_hooks_on_any_module_are_heard_in_the_forward_pass(family):
    net, tokens = hooked(tiny.fresh(family).requires_grad_(False)), tiny.tokens(1, 5)
    before = net.forward(tokens)
    handle = net.raw.blocks[1].mlp.register_forward_hook(lambda module, args, out: out * 0.5)
    same(net.forward(tokens), whole(net, tokens))
    assert (net.forward(tokens) - before).abs().max() > 1e-3
    handle.remove()
    same(net.forward(tokens), before)


@pytest.mark.parametrize("shared", [True, False], ids=["shared prefix", "own prefixes"])
def test_prefix_and_rest_are_the_whole(net, listening, shared):
    tokens = tiny.tokens(3, 17)
    if shared:
        tokens[:, :11] = tokens[0, :11]
    expected = whole(net, tokens)[:, 11:]
    _, past = run(net, net.embed(tokens[: 1 if shared else 3, :11]))
    positions = torch.arange(11, 17)
    with net.hooks(everywhere(net) if listening else []):
        same(run(net, net.embed(tokens[:, 11:], positions), positions, past)[0], expected)
        # ... and one token at a time, which is how a training step looks at the last one.
        own = [
            kv.then(new)
            for kv, new in zip(
                past, run(net, net.embed(tokens[:, 11:16], positions[:5]), positions[:5], past)[1], strict=True
            )
        ]
        last = run(net, net.embed(tokens[:, 16:], positions[5:]), positions[5:], own)[0]
    same(last, expected[:, 5:])


def test_anchors_alone_are_the_whole_with_the_other_keys_masked(net, listening):
    """Gathered keys keep their places; the oracle is the whole prompt with the other keys' scores at -inf."""
    tokens = tiny.tokens(2, 17)
    tokens[1, :11] = tokens[0, :11]
    anchors, rest = torch.tensor([2, 5, 8, 9, 10]), torch.tensor([0, 1, 3, 4, 6, 7])

    def hide(scores, hook):
        scores = scores.clone()
        scores[:, :, 11:, rest] = -torch.inf
        return scores

    with net.hooks([(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(net.sizes.n_layers)]):
        expected = (net.forward if delegates(net) else partial(whole, net))(tokens)[:, 11:]
    _, past = run(net, net.embed(tokens[:1, :11]))
    kept = [kv.select(anchors) for kv in past]
    assert kept[0].positions.tolist() == anchors.tolist()
    positions = torch.arange(11, 17)
    with net.hooks(everywhere(net) if listening else []):
        same(run(net, net.embed(tokens[:, 11:], positions), positions, kept)[0], expected)
    # The control: at places counted anew the answer is another one.
    compact = torch.arange(5, 11)
    moved = run(net, net.embed(tokens[:, 11:], compact), compact, kept)[0]
    assert (moved - expected).abs().max() / expected.abs().max() > 1e-2


def test_prompts_of_different_length_on_a_shared_prefix(net, listening):
    """Right padding needs no mask, and every prompt may have positions of its own."""
    prefix, lengths = tiny.tokens(1, 9), [6, 3]
    rest = tiny.tokens(2, 6, seed=1)
    _, past = run(net, net.embed(prefix))
    positions = torch.stack([torch.arange(9, 15), torch.tensor([9, 10, 11, 11, 11, 11])])
    with net.hooks(everywhere(net) if listening else []):
        found = run(net, net.embed(rest, positions), positions, past)[0]
    for i, length in enumerate(lengths):
        alone = whole(net, torch.cat([prefix, rest[i : i + 1, :length]], 1))
        same(found[i, :length], alone[0, 9:])


def test_every_hook_point_fires_with_the_shapes_of_the_whole_run(net):
    tokens = tiny.tokens(2, 9)
    expected, found = {}, {}
    with net.hooks(everywhere(net, expected)):
        whole(net, tokens)
    with net.hooks(everywhere(net, found)):
        run(net, net.embed(tokens))
    assert unrotated(found) == unrotated(expected)
    rotary = "blocks.1.attn.hook_rot_q" in net.hook_names()
    assert rotary == (not net.learned_positions)
    if rotary:
        assert found["blocks.1.attn.hook_rot_q"] == [(2, 9, net.sizes.n_heads, net.sizes.d_head)]
        assert found["blocks.1.attn.hook_rot_k"] == [(2, 9, net.sizes.n_key_value_heads, net.sizes.d_head)]
    keys = found.keys()
    _, past = run(net, net.embed(tokens[:, :6]))
    with net.hooks(everywhere(net, found := {})):
        run(net, net.embed(tokens[:, 6:], torch.arange(6, 9)), torch.arange(6, 9), past)
    assert found.keys() == keys
    assert found["blocks.1.attn.hook_pattern"] == [(2, net.sizes.n_heads, 3, 9)]


@pytest.mark.parametrize("setting", ["use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in"])
@pytest.mark.parametrize("family", named("gpt2", "llama", "gptj"))
def test_optional_hook_points_fire_where_switched_on(family, setting):
    if family == "llama" and setting == "use_attn_in":
        pytest.skip("TransformerLens itself cannot split the attention input by head with grouped keys")
    net = hooked(biased(family))
    if tiny.is_bridge(family) and delegates(net) and setting != "use_hook_mlp_in":
        pytest.skip("TransformerLens itself refuses this where Hugging Face's module computes attention")
    getattr(net.raw, f"set_{setting}")(True)
    tokens = tiny.tokens(2, 9)
    heard_whole, heard = {}, {}
    with net.hooks(everywhere(net, heard_whole)):
        expected = whole(net, tokens)
    with net.hooks(everywhere(net, heard)):
        same(run(net, net.embed(tokens))[0], expected)
    assert unrotated(heard) == unrotated(heard_whole)
    same(run(net, net.embed(tokens))[0], expected)


def test_an_edit_inside_one_block_acts(net):
    """The same edits by block and in the whole run; each takes only its half of a block off the fast path."""
    tokens = tiny.tokens(2, 9)
    for site in (
        "attn.hook_pattern",
        "attn.hook_v",
        "mlp.hook_post",
        "hook_attn_out",
        "hook_mlp_out",
        "ln2.hook_scale",
    ):
        if f"blocks.1.{site}" not in net.hook_names():
            continue  # GPT-J has one norm
        hidden = delegates(net) and site == "attn.hook_pattern"

        def scale(value, hook, hidden=hidden):
            return value * torch.linspace(1.5, 2, 1 if hidden else value.shape[-1])

        edit = [(f"blocks.1.{site}", scale)]
        with net.hooks(edit):
            expected, found = whole(net, tokens), run(net, net.embed(tokens))[0]
        if hidden:  # the average of values is larger by the same factor
            with net.hooks([("blocks.1.attn.hook_z", scale)]):
                expected = whole(net, tokens)
        same(found, expected)
        assert (expected - whole(net, tokens)).abs().max() > 1e-3


def test_gradients_of_activations(net, listening):
    tokens, gradients = tiny.tokens(2, 9), []
    for through in (partial(whole, net), lambda tokens: run(net, net.embed(tokens))[0]):
        leaf = {}

        def start(embedded, hook, leaf=leaf):
            leaf["x"] = embedded.detach().requires_grad_()
            return leaf["x"]

        with net.hooks([("hook_embed", start), *(everywhere(net) if listening else [])]):
            loss = net.read(through(tokens))[:, -1].log_softmax(-1)[:, 7].sum()
        gradients.append(torch.autograd.grad(loss, leaf["x"])[0])
    same(gradients[1], gradients[0], 1e-4)


@pytest.mark.parametrize("family", named("llama", "gpt2", "neox"))
def test_gradients_of_weights_and_edited_weights(family):
    """Nothing is kept between calls: edited weights act in the next call, and get their gradients."""
    model = tiny.fresh(family).requires_grad_(True)
    net, tokens = hooked(model), tiny.tokens(8, 40)

    def weight(layer):
        attn = model.blocks[layer].attn
        return attn.q.original_component.weight if tiny.is_bridge(family) else attn.W_Q

    for batch in (tokens[:1, :5], tokens):  # both ways of projecting
        gradients = []
        for through in (partial(whole, net), lambda tokens: run(net, net.embed(tokens))[0]):
            model.zero_grad()
            net.read(through(batch)).log_softmax(-1)[..., 3].mean().backward()
            gradients.append(weight(1).grad.clone())
        same(gradients[1], gradients[0], 1e-4)
        with torch.no_grad():
            before = run(net, net.embed(batch))[0]
            weight(0).data = weight(0).data * 2
            after = run(net, net.embed(batch))[0]
            assert (after - before).abs().max() > 1e-2
            same(after, whole(net, batch))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 4e-2), (torch.float16, 5e-3), (torch.float64, 1e-12)]
)
def test_other_dtypes(net, dtype, tolerance):
    model = net.raw.to(dtype)
    net, tokens = hooked(model), tiny.tokens(2, 17)
    found, _ = run(net, net.embed(tokens))
    assert found.dtype == dtype
    # Hugging Face's modules and TransformerLens's Bridges take the softmax in float32 whatever the model's dtype.
    tolerance = max(tolerance, 1e-6) if hasattr(model, "original_model") else tolerance
    same(found.double(), whole(net, tokens).double(), tolerance)
    assert net.lens(found).dtype == torch.float32


@pytest.mark.parametrize("family", named("gpt2", "llama", "gptj", "gemma2", "neox"))
def test_folded_models_run_by_block(family, listening):
    net, tokens = hooked(tiny.fresh(family, "fold").requires_grad_(False)), tiny.tokens(2, 17)
    with net.hooks(everywhere(net) if listening else []):
        same(run(net, net.embed(tokens))[0], whole(net, tokens))


@pytest.mark.parametrize("family", named("gpt2"))
def test_hooks_are_heard_after_the_model_was_rebuilt(family):
    """Folding in place replaces the norms; a hook on the new ones must not be missed."""
    model = tiny.fresh(family).requires_grad_(False)
    net, tokens = hooked(model), tiny.tokens(1, 5)
    run(net, net.embed(tokens))
    model.enable_compatibility_mode(disable_warnings=True) if tiny.is_bridge(family) else model.process_weights_()
    with net.hooks([("blocks.1.ln1.hook_normalized", lambda value, hook: value * 2)]):
        same(run(net, net.embed(tokens))[0], whole(net, tokens))


@pytest.mark.parametrize("family", named("gpt2"))
def test_pytorch_hooks_are_heard_too(family):
    net, tokens = hooked(tiny.fresh(family).requires_grad_(False)), tiny.tokens(1, 5)
    handle = net.raw.blocks[1].attn.hook_pattern.register_forward_hook(lambda module, args, out: out * 0.5)
    same(run(net, net.embed(tokens))[0], whole(net, tokens))
    handle.remove()


@pytest.mark.parametrize("family", named("gpt2"))
def test_positions_that_do_not_fit(family):
    net = hooked(tiny.model(family))
    resid = net.embed(tiny.tokens(2, 5))
    _, past = run(net, resid)
    with pytest.raises(InputError, match="explicit positions"):
        net.block(0, resid, None, past[0])
    with pytest.raises(InputError, match=r"Positions have shape \[4\]"):
        net.block(0, resid, torch.arange(4))
    with pytest.raises(InputError, match="leave the context"):
        net.block(0, resid, torch.arange(5) + tiny.N_CTX - 4)
    with pytest.raises(InputError, match="leave the context"):
        net.embed(tiny.tokens(2, 5), torch.arange(5) - 1)


@pytest.mark.parametrize("family", ["bloom", "bloom/bridge"])
def test_what_cannot_run_by_block_says_so_and_still_runs_whole(family):
    net = hooked(tiny.model(family))
    tokens = tiny.tokens(2, 9)
    torch.testing.assert_close(net.forward(tokens), whole(net, tokens))
    reason = "has blocks that do not run on their own" if tiny.is_bridge(family) else "uses alibi positions"
    with pytest.raises(InputError, match=f"tiny-bloom {reason}"):
        net.block(0, torch.zeros(2, 9, tiny.D_MODEL))


@HOOKED
@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("load_in_4bit", True, "4-bit weights"),
        ("use_attention_sinks", True, "attention sinks"),
        ("original_architecture", "Olmo2ForCausalLM", "OLMo's norms"),
        ("use_logn_attn", True, "log-n"),
        ("use_dynamic_ntk_rope", True, "rotary frequencies"),
        ("attention_dir", "bidirectional", "bidirectional"),
        ("positional_embedding_type", "shortformer", "shortformer positions"),
    ],
)
def test_each_obstacle_has_a_name(setting, value, reason):
    from mechicl.models.block import unsupported_reason

    cfg = copy.deepcopy(tiny.model("llama").cfg)
    assert unsupported_reason(cfg) is None
    setattr(cfg, setting, value)
    assert reason in unsupported_reason(cfg)


@HOOKED
def test_rotary_tables_grow_as_in_transformer_lens():
    model = tiny.fresh("llama").requires_grad_(False)
    net, tokens = hooked(model), tiny.tokens(1, 40)
    expected = whole(net, tokens)
    for block in model.blocks:
        block.attn._extend_rotary_embeddings(16)
    same(run(net, net.embed(tokens))[0], expected)


def test_key_values_join():
    def some(batch, start, stop, positions=None):
        x = torch.randn(batch, stop - start, 2, 8)
        return KeyValues(x, x + 1, torch.arange(start, stop) if positions is None else positions)

    joined = some(1, 0, 3).then(some(4, 3, 5))
    assert (joined.batch, len(joined), joined.positions.tolist()) == (4, 5, [0, 1, 2, 3, 4])
    own = torch.tensor([[3, 4], [7, 8]])
    joined = some(1, 0, 3).then(some(2, 3, 5, own))
    assert joined.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 7, 8]]
    assert joined.select(torch.tensor([0, 3])).positions.tolist() == [[0, 3], [0, 7]]
