"""A cell's key changes with everything that its numbers depend on, and with nothing else."""

from __future__ import annotations

import functools
import linecache

import pytest
import torch
from torch import nn

from mechicl.models import hooked
from mechicl.models.digests import fingerprints, weighted_sum
from mechicl.models.facts import described
from mechicl.models.provenance import config_digest, weight_digest
from tests import tiny

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def host(tensor):
    return fingerprints([tensor])[0]


def device(tensor):
    """What a CUDA device computes, on whatever device the tensor is."""
    return int(weighted_sum(tensor.contiguous().view(-1)))


def swap_elements(x):
    x[[3, 40000]] = x[[40000, 3]]


def swap_rows(x):
    rows = x.view(-1, 20)
    rows[[1, 2500]] = rows[[2500, 1]]


def negate_two(x):
    x[[5, 70001]] *= -1


def nudge(x):
    x[-1] += 2 * x[-1].abs() * torch.finfo(x.dtype).eps


EDITS = (swap_elements, swap_rows, negate_two, nudge)


@pytest.mark.parametrize("fingerprint", [host, device])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edit", EDITS)
def test_a_fingerprint_sees_every_edit(fingerprint, dtype, edit):
    x = torch.randn(80000, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[[1, 2]] = x[[2, 1]]
    before = fingerprint(x)
    assert fingerprint(x.clone()) == before
    edit(x)
    assert fingerprint(x) != before


def test_swaps_across_parts_of_a_large_tensor_are_seen():
    x = torch.randn((1 << 20) + 5, generator=torch.Generator().manual_seed(1))
    before = device(x)
    for first, second in ((0, 1 << 20), (7, (1 << 20) + 1)):
        x[[first, second]] = x[[second, first]]
        assert device(x) != before
        before = device(x)


def test_thousands_of_single_edits_have_fingerprints_of_their_own():
    x = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    seen = {device(x)}
    for index in range(4000):
        x[index] *= -1
        seen.add(device(x))
        x[index] *= -1
    assert len(seen) == 4001


def test_layouts():
    """Transposed, sliced, scalar and empty parameters; numbers that only lie otherwise have the same weights."""
    x = torch.randn(30, 40)
    for view in (x.T, x[:, ::2], x[3:, 5:].T, x[0, 0], x[:0]):
        assert host(view) == host(view.clone(memory_format=torch.preserve_format))
    other = x.clone()
    other[3, 4] += 1
    assert host(x.T) != host(other.T)


@pytest.mark.parametrize("through", ["in place", "data", "a new parameter"])
def test_the_weight_digest_follows_every_edit_and_comes_back(through):
    model = tiny.fresh("llama")
    digest, known = weight_digest(model), model.blocks[1].mlp.W_in.detach().clone()

    def write(value):
        if through == "in place":
            with torch.no_grad():
                model.blocks[1].mlp.W_in.copy_(value)
        elif through == "data":
            model.blocks[1].mlp.W_in.data.copy_(value)
        else:
            model.blocks[1].mlp.W_in = nn.Parameter(value.clone())

    swapped = known.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    write(swapped)
    assert weight_digest(model) != digest
    write(known)
    assert weight_digest(model) == digest


def test_the_digest_is_that_of_the_whole_bytes():
    """Saved results and contexts hold it."""
    assert weight_digest(tiny.model("gpt2")) == weight_digest(tiny.fresh("gpt2"))
    model = tiny.fresh("gpt2")
    model.unembed.W_U.data = model.unembed.W_U.data.T.contiguous().T
    assert weight_digest(model) == weight_digest(tiny.model("gpt2"))


class Scale(nn.Module):
    """An MLP of the user's own, with what it may depend on."""

    def __init__(self, inner, strength=0.5, shift=0.0):
        super().__init__()
        self.inner, self.strength = inner, strength
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, x):
        return self.inner(x) * self.strength + self.shift


def squared(x):
    return x * x


def cubed(x):
    return x * x * x


def scaled_by(factor):
    return lambda x: x * factor


def wrap(**options):
    def change(model):
        model.blocks[1].mlp = Scale(model.blocks[1].mlp, **options)

    return change


def set_at(path, name, value):
    return lambda model: setattr(model.get_submodule(path), name, value)


CHANGES = (
    set_at("", "training", True), set_at("blocks.1.mlp", "act_fn", torch.tanh),
    set_at("blocks.1.mlp", "act_fn", torch.sigmoid), set_at("blocks.1.mlp", "act_fn", squared),
    set_at("blocks.1.mlp", "act_fn", cubed), set_at("blocks.2.mlp", "act_fn", cubed),
    set_at("blocks.1.mlp", "act_fn", scaled_by(0.5)), set_at("blocks.1.mlp", "act_fn", scaled_by(0.25)),
    set_at("blocks.1.mlp", "act_fn", functools.partial(torch.clamp, min=0.0)),
    set_at("blocks.1.mlp", "act_fn", functools.partial(torch.clamp, min=0.5)),
    set_at("ln_final", "eps", 1e-3), set_at("ln_final", "eps", 1e-4), set_at("blocks.0.ln1", "eps", 1e-3),
    set_at("blocks.0.attn", "attn_scale", 3.0), set_at("blocks.0.attn", "attn_type", "local"),
    set_at("blocks.0.attn", "calculate_z_scores", squared), set_at("cfg", "output_logits_soft_cap", 9.0),
    set_at("blocks.0.hook_resid_pre", "forward", squared),
    wrap(), wrap(strength=0.25), wrap(shift=1.0),
)  # fmt: skip


def test_each_change_of_a_module_has_a_digest_of_its_own():
    digests = []
    for change in CHANGES:
        model = tiny.fresh("gpt2").requires_grad_(False)
        model.get_submodule = lambda path, model=model: (
            model.cfg if path == "cfg" else nn.Module.get_submodule(model, path)
        )
        change(model)
        vars(model).pop("get_submodule")
        digests.append(config_digest(model))
    assert digests[0] == config_digest(tiny.model("gpt2"))  # the control: the mode it is in does not count
    assert len(set(digests)) == len(CHANGES)


def test_running_or_hooking_a_model_leaves_its_digest():
    model = tiny.fresh("llama").requires_grad_(False)
    digest, net = config_digest(model), hooked(model)
    with net.hooks([("hook_embed", lambda value, hook: value)]):
        net.forward(tiny.tokens())
        assert config_digest(model) == digest
    model(tiny.tokens())
    model.blocks[0].attn._extend_rotary_embeddings(64)
    model.train()
    assert config_digest(model) == digest
    assert config_digest(tiny.fresh("llama")) == digest


def test_a_patched_class_is_in_the_digest(monkeypatch):
    from transformer_lens.components import LayerNorm

    digest = config_digest(tiny.model("gpt2"))
    with monkeypatch.context() as patch:
        patch.setattr(LayerNorm, "forward", squared)
        one = config_digest(tiny.model("gpt2"))
        patch.setattr(LayerNorm, "forward", cubed)
        assert len({digest, one, config_digest(tiny.model("gpt2"))}) == 3
    assert config_digest(tiny.model("gpt2")) == digest


def test_code_without_source_is_told_apart_by_its_instructions(monkeypatch):
    """Since Python 3.13, "<string>" has the text of `python -c`, such as of pytest's workers."""
    monkeypatch.setitem(linecache.cache, "<string>", (9, None, ["made = 1\n"], "<string>"))
    made = []
    for text in ("lambda x: x * 2", "lambda x: x * 3", "lambda x: x + 2", "lambda x: x * 2"):
        made.append(described(eval(text)))
    assert len(set(made)) == 3
    assert made[0] == made[3]
    assert "0x" not in "".join(map(described, (squared, Scale, Scale(nn.Identity()), functools.partial(cubed, 1))))
