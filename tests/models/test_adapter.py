"""A class of the user's own that answers `Adapter` alone: what works on it, and what says that it needs more."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

import mechicl as mi
from mechicl.engines.compression import compress
from mechicl.engines.continuations import continuations
from mechicl.engines.last_token import last_tokens
from mechicl.engines.prefix import run_shared
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.models import Sizes, blockwise, frozen, hooked, provenance, runs_by_block
from mechicl.models.provenance import config_digest, weight_digest
from mechicl.patches.lesions import Repeat
from mechicl.probes.label_attention import LabelAttention
from mechicl.probes.logit_lens import LogitLens
from mechicl.probes.top_tokens import TopTokens
from mechicl.studies.stages.neurons import NeuronsStudy
from mechicl.studies.stages.norms import NormsStudy
from tests import tiny
from tests.contract import catalogue


class Plain(nn.Module):
    """Attention-only, plain PyTorch: what somebody without TransformerLens may have at hand."""

    name = "plain"
    device, dtype = torch.device("cpu"), torch.float32
    sizes = Sizes(
        n_layers=2, n_heads=2, n_key_value_heads=2, d_model=16, d_head=8, d_mlp=0, d_vocab=tiny.D_VOCAB, n_ctx=512
    )

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokenizer = tiny.tokenizer()
        self.embedding = nn.Embedding(tiny.D_VOCAB, 16)
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.norm, self.unembedding = nn.LayerNorm(16), nn.Linear(16, tiny.D_VOCAB)
        self.installed = []

    @property
    def raw(self):
        return self

    def hook_names(self):
        names = ("hook_resid_pre", "attn.hook_attn_scores", "attn.hook_pattern", "hook_attn_out", "hook_resid_post")
        return frozenset({"hook_embed"} | {f"blocks.{i}.{name}" for i in range(2) for name in names})

    @contextmanager
    def hooks(self, fwd):
        for name, _ in fwd:
            if name not in self.hook_names():
                raise InputError(f"{self.name} has no hook point {name!r}.")
        kept, self.installed = self.installed, [*self.installed, *fwd]
        try:
            yield
        finally:
            self.installed = kept

    def point(self, name, value):
        for at, function in self.installed:
            new = function(value, hook=name) if at == name else None
            value = value if new is None else new
        return value

    def forward(self, tokens):
        resid, (batch, pos) = self.point("hook_embed", self.embedding(tokens)), tokens.shape
        ahead = torch.ones(pos, pos, dtype=torch.bool).triu(1)
        for i in range(2):
            resid = self.point(f"blocks.{i}.hook_resid_pre", resid)
            q, k, v = self.qkv[i](resid).view(batch, pos, 3, 2, 8).permute(2, 0, 3, 1, 4)
            scores = (q @ k.mT / 8**0.5).masked_fill(ahead, -torch.inf)
            scores = self.point(f"blocks.{i}.attn.hook_attn_scores", scores)
            pattern = self.point(f"blocks.{i}.attn.hook_pattern", scores.softmax(-1))
            out = self.out[i]((pattern @ v).transpose(1, 2).flatten(2))
            resid = self.point(f"blocks.{i}.hook_resid_post", resid + self.point(f"blocks.{i}.hook_attn_out", out))
        return resid

    def read(self, resid):
        return self.unembedding(self.norm(resid))

    def lens(self, resid, tokens=None):
        logits = self.read(resid).float()
        return logits if tokens is None else logits[..., tokens]


class Wrapped:
    """A HookedTransformer that is only run whole."""

    def __init__(self, model):
        self.raw, self.name, self.tokenizer = model, "wrapped", model.tokenizer
        self.device, self.dtype, self.sizes = torch.device("cpu"), torch.float32, hooked(model).sizes

    def hook_names(self):
        return frozenset(self.raw.hook_dict)

    def hooks(self, fwd):
        return self.raw.hooks(fwd_hooks=list(fwd))

    def forward(self, tokens):
        last = []
        end = f"blocks.{self.sizes.n_layers - 1}.hook_resid_post"
        with self.raw.hooks(fwd_hooks=[(end, lambda value, hook: last.append(value))]):
            self.raw(tokens, prepend_bos=False, padding_side="right")
        return last[0]

    def read(self, resid):
        return self.raw.unembed(self.raw.ln_final(resid))

    def lens(self, resid, tokens=None):
        return hooked(self.raw).lens(resid, tokens)


@pytest.fixture
def prompts():
    return catalogue.prompts()


def test_probes_and_patches_act_on_a_class_of_the_users_own(prompts):
    model = Plain().train()
    probe = LabelAttention()
    seen = mi.run(model, prompts, [probe, TopTokens(3)], [mi.patches.IsolateLabels([0])], progress=None)
    assert seen[probe].shape == (len(prompts), 2, 2, len(prompts.label_ids))
    plain = mi.run(model, prompts, progress=None)
    assert not torch.allclose(seen.label_logits, plain.label_logits)  # the patch acted
    torch.testing.assert_close(mi.run(model, prompts, progress=None, batch_size=1).label_logits, plain.label_logits)
    with pytest.raises(InputError, match=r"has no hook point 'blocks.0.attn.hook_z'"):
        mi.run(model, prompts, patches=[_Unknown()], progress=None)
    assert model.installed == []
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


class _Unknown(mi.Patch):
    def hooks(self, model, batch):
        return [("blocks.0.attn.hook_z", lambda value, hook: value)]


def test_a_probe_with_gradients_reads_it(prompts):
    """Zeroed attention gradients would give zeros: saliency is |A x dL/dA|."""
    table = mi.information_flow(Plain(), prompts).table
    assert (table.select_dtypes("number").abs().sum() > 0).any()


STUDIES = {
    "information-flow": lambda model, prompts: mi.information_flow(model, prompts, untrained=0),
    "isolation": lambda model, prompts: mi.isolation(model, prompts, n_layers=(1, 2)),
    "deep-layers": lambda model, prompts: mi.studies.deep_layers(model, prompts),
    "norms": lambda model, prompts: NormsStudy().run(model, catalogue.text()),
}


@pytest.mark.parametrize("study", STUDIES)
def test_studies_give_the_numbers_of_the_model_inside(study, prompts):
    model = tiny.model("gpt2")
    expected, found = (STUDIES[study](one, prompts) for one in (model, Wrapped(model)))
    own = found.provenance["model"]
    assert (own["name"], own["weight_digest"]) == ("wrapped", weight_digest(model))
    pd.testing.assert_frame_equal(found.table.assign(model=""), expected.table.assign(model=""), rtol=1e-4, atol=1e-5)


def test_the_logit_lens_reads_it():
    model, probe = tiny.model("gpt2"), LogitLens()
    expected, found = (
        mi.run(one, catalogue.text(), [probe], progress=None)[probe].quantities for one in (model, Wrapped(model))
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_provenance_follows_weights_settings_and_code():
    model = Plain()
    facts = provenance(model)
    assert facts == provenance(Plain())
    with torch.no_grad():
        model.out[0].bias[3] += 1
    assert provenance(model)["weight_digest"] != facts["weight_digest"]
    assert provenance(model)["config_digest"] == facts["config_digest"]
    model.norm.eps = 1e-3
    assert provenance(model)["config_digest"] != facts["config_digest"]
    inner = tiny.model("gpt2")
    other = type("Other", (Wrapped,), {"read": lambda self, resid: 2 * Wrapped.read(self, resid)})
    assert len({config_digest(one) for one in (inner, Wrapped(inner), other(inner))}) == 3


def test_what_needs_blocks_says_so(prompts):
    model, tokens = Wrapped(tiny.model("gpt2")), tiny.tokens(1, 6)
    assert not runs_by_block(hooked(model))
    assert hooked(model) is model
    work = {
        "lesion_sweep": lambda: lesion_sweep(model, tokens, [mi.patches.Drop(0)]),
        "continuations": lambda: continuations(model, [("good", " film")], prepend_bos=False),
        "read_context": lambda: compress(model, prompts[0]),
        "last_tokens": lambda: last_tokens(model, prompts),
        "Repeat": lambda: Repeat(0, 1).on(model).__enter__(),
        "neurons": lambda: NeuronsStudy().run(model),
        "LabelAttention": lambda: mi.run(model, prompts, [LabelAttention("norm")], progress=None),
        "LogitLens": lambda: mi.run(model, catalogue.text(), [LogitLens("authors")], progress=None),
    }
    for name, act in work.items():
        with pytest.raises(InputError, match=rf"(?i)^{name}.* needs a model that runs block by block .*; wrapped \("):
            act()
    assert blockwise(model.raw, "the control") is hooked(model.raw)


def test_shared_demonstrations_are_run_whole(prompts):
    model = tiny.model("gpt2")
    expected = run_shared(model, prompts, progress=None).label_logits
    torch.testing.assert_close(run_shared(Wrapped(model), prompts, progress=None).label_logits, expected)


def test_frozen_holds_it_still_and_an_incomplete_class_is_told_what_it_lacks():
    model = Plain().train()
    with frozen(model):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.training
    assert mi.load_model(model) is model
    for missing in ("lens", "hook_names"):
        kind = type("Incomplete", (), {name: None for name in dir(Plain) if name[0] != "_" and name != missing})
        kind.tokenizer = None
        with pytest.raises(InputError, match=rf"^Incomplete lacks {missing} of mechicl.models.Adapter"):
            hooked(kind())


def test_both_layers_are_looked_up_without_reading_a_property():
    class Dear(Wrapped):
        W_U = property(partial(pytest.fail, "was read"))

    assert not runs_by_block(hooked(Dear(tiny.model("gpt2"))))
