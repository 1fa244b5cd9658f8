"""Every probe, patch, engine and study, on every architecture: right, and the model comes back as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from mechicl.corpora import TokenCorpus
from mechicl.engines.wavefront import final_residuals
from mechicl.errors import InputError
from mechicl.hooks import Hook, Patch, Probe, Run, run
from mechicl.models import hooked
from mechicl.patches import IsolateLabels, Reorder
from mechicl.probes import LabelAttention, LogitLens, SaliencyFlow
from mechicl.readings import Reading, without_padding
from mechicl.results import Result
from mechicl.studies import STUDIES
from mechicl.studies.stages import wic
from mechicl.studies.study import Study
from tests import tiny
from tests.contract import catalogue
from tests.contract.state import differences, fingerprint

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
HALVES = (torch.bfloat16, torch.float16)
DRIFT = {torch.bfloat16: 0.15, torch.float16: 0.05}
"""Of a quantity's largest value; the largest measured are 0.095 and 0.028."""
DRIFT_OF_RANKS = 0.5
RANKS = ("auroc", "agreement", "reciprocal_rank", "top_k_overlap")
"""Of a few tokens: one pair that changes places moves an AUROC by 0.33."""
OF_THE_PREDICTION = ("LensMap", "probability")
"""Read at the token that the model predicts; of two that are about as probable, another dtype predicts the other."""
_OF_WEIGHTS = tuple(name for name, study in STUDIES.items() if study.reads == "weights")
EVERYDAY = ("gpt2", "neo", "gptj", "llama", "gemma2", "gpt2/bridge", "neox/bridge", "gemma2/bridge")
"""All others, and Bridges of TransformerLens 3.9 whose parts these have, are run by `make test-thorough`."""
FEW = ("gpt2", "gptj", "llama", "gemma2")
"""Sequential, parallel, grouped keys with gated MLPs, and norms on both sides with soft caps and local layers."""


def _cases() -> list[Any]:
    """Every family on every device."""
    return [
        pytest.param(
            (family, device), id=f"{family}-{device}",
            marks=[] if family in EVERYDAY or not tiny.HOOKED else pytest.mark.thorough,
        )
        for family in tiny.cases for device in DEVICES
    ]  # fmt: skip


@pytest.fixture(scope="module", params=_cases())
def model(request: pytest.FixtureRequest) -> Any:
    """A model of every family, in an unusual state: training, some gradients on, and a hook of the user's."""
    family, device = request.param
    return unusual(tiny.fresh(family).to(device, print_details=False))


@pytest.fixture(autouse=True)
def _one_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a probe's penalty is chosen knows no architecture."""
    monkeypatch.setattr(wic, "_PENALTIES", (0.01,))


def unusual(model: Any) -> Any:
    model.train()
    model.blocks[1].eval()
    model.embed.W_E.requires_grad_(False)
    model.add_hook("blocks.0.hook_resid_post", lambda value, hook: None)
    return model


def close(ours: Tensor, plain: Tensor, tolerance: float = 1e-5) -> None:
    ours, plain = ours.float().cpu(), plain.float().cpu()
    assert ours.shape == plain.shape
    error, scale = float((ours - plain).abs().max()), max(float(plain.abs().max()), 1e-2)
    assert error <= tolerance * scale, f"off by {error:.1e} at a scale of {scale:.1e}"


def close_readings(ours: Reading, plain: Reading, tolerance: float = 1e-5) -> None:
    """Every quantity and every count; a mean over no terms is NaN in both."""
    assert (ours.axes, ours.units, ours.terms) == (plain.axes, plain.units, plain.terms)
    for name, count in plain.counts.items():
        assert torch.equal(ours.counts[name].cpu(), count.cpu()), name
    for name, values in plain.quantities.items():
        assert torch.equal(ours[name].isnan(), values.isnan()), name
        close(ours[name].nan_to_num(), values.nan_to_num(), tolerance)


def by_hand(model: Any, batch: Any, hooks: list[Hook], probe: Probe | None = None) -> Tensor:
    """TransformerLens alone: label logits at q, and the backward pass that a probe asks for."""
    with torch.random.fork_rng():  # a HookedTransformer is made with random weights
        plain = twin(model)
    with evaluating(model, plain):
        logits = plain.run_with_hooks(batch.tokens, fwd_hooks=hooks, prepend_bos=False, padding_side="right")
    if not hasattr(batch, "target"):
        return logits
    at_q = logits[torch.arange(len(batch.target)), batch.target][:, batch.label_ids]
    if probe is not None and probe.objective is not None:
        probe.objective(at_q.float(), batch.gold).sum().backward()
        plain.zero_grad(set_to_none=True)
    return at_q


@contextmanager
def evaluating(*models: Any) -> Iterator[None]:
    """Without the dropout of Hugging Face's modules; a HookedTransformer has none."""
    roots = [root for model in models for root in (model, getattr(model, "original_model", None))]
    training = [(part, part.training) for root in roots if isinstance(root, Module) for part in root.modules()]
    try:
        for part, _ in training:
            part.training = False
        yield
    finally:
        for part, mode in training:
            part.training = mode


def twin(model: Any) -> Any:
    """The HookedTransformer of a Bridge whose attention shows a pattern only after using it, so that hooks by hand edit
    nothing, or rotated queries and keys never; without one, what mechicl runs.
    """
    if isinstance(model, Ours) or type(model.blocks[0].attn).__name__ not in (
        "AttentionBridge",
        "JointQKVPositionEmbeddingsAttentionBridge",
    ):
        return model
    return tiny.fresh(model.cfg.model_name.removeprefix("tiny-")) if tiny.HOOKED else Ours(model)


class Ours:
    """A Bridge run through its adapter."""

    def __init__(self, model: Any) -> None:
        self.net = hooked(model)

    def run_with_hooks(self, tokens: Tensor, fwd_hooks: list[Hook], **_: Any) -> Tensor:
        with self.net.hooks(fwd_hooks):
            return self.net.read(self.net.forward(tokens))

    def zero_grad(self, **how: Any) -> None:
        self.net.raw.zero_grad(**how)


def test_probes_have_their_axes_and_equal_the_plain_path(model: Any) -> None:
    before = fingerprint(model)
    for probe in catalogue.probes():
        material = catalogue.material(probe)
        reading = run(model, material, [probe], batch_size=2)[probe]
        check_axes(probe, reading, model, material)
        watch = probe.watch(hooked(model), batch := material.batch(hooked(model).device))
        if watch.read_logits is None:  # what reads logits at q is compared through `run` alone
            by_hand(model, batch, watch.hooks, probe)
            by_hand_alone = without_padding(probe.reading(watch, batch), batch.lengths)
            close_readings(by_hand_alone, reading, 2e-5 if probe.objective is None else 1e-4)
        alone = run(model, material, [probe], batch_size=1)[probe]
        close_readings(alone, reading, 2e-5 if probe.objective is None else 1e-4)
    assert differences(before, fingerprint(model)) == []


def check_axes(probe: Probe, reading: Reading, model: Any, material: Any) -> None:
    cfg, rows = model.cfg, "sequence" if isinstance(material, TokenCorpus) else "prompt"
    sizes = {rows: len(material), "class": 4, "point": cfg.n_layers + 1}
    if not hasattr(probe, "layers"):
        sizes["layer"] = cfg.n_layers
    if not hasattr(probe, "heads"):
        sizes["head"] = cfg.n_heads
    axes = tuple(rows if axis in ("prompt", "sequence") else axis for axis in probe.axes)
    assert (reading.axes, reading.units) == (axes, probe.units)
    for axis, size in zip(axes, reading.shape, strict=True):
        assert len(reading.along(axis)) == size
        assert size == sizes.get(axis, size), f"{probe}: axis {axis} has {size} entries, not {sizes[axis]}"


def test_patches_equal_the_plain_path(model: Any) -> None:
    """`run`, a context in which the model is patched, the wavefront, and TransformerLens alone give the same."""
    before, net = fingerprint(model), hooked(model)
    plain = {kind: plain_logits(model, kind) for kind in (True, False)}
    for patch in catalogue.patches():
        if isinstance(patch, Reorder) and len(patch.to) != model.cfg.n_layers:
            continue  # an order is of one number of layers
        material = catalogue.material(patch)
        batch, order = material.batch(net.device), patch.order(model.cfg.n_layers)
        with torch.no_grad(), evaluating(model), patch.on(model, batch):
            ours = read_at_q(net, batch, net.forward(batch.tokens))
        if not isinstance(material, TokenCorpus):
            close(effect(model, material, patch), ours, 2e-5)
        with torch.no_grad(), evaluating(model):
            final = final_residuals(net, net.embed(batch.tokens), batch, [patch])[1]
            close(read_at_q(net, batch, final), ours, 2e-5)
            if order is None:
                close(ours, by_hand(model, batch, list(patch.hooks(net, batch))), 2e-5)
            else:
                with torch.random.fork_rng():
                    plain_model = twin(model)
                with reordered(plain_model, net, order):
                    close(ours, by_hand(plain_model, batch, []), 2e-5)
        unpatched = plain[isinstance(material, TokenCorpus)]
        assert (ours.cpu() - unpatched).abs().max() > 1e-4, f"{patch} changed nothing"
    assert differences(before, fingerprint(model)) == []


@contextmanager
def reordered(model: Any, net: Any, order: Any) -> Iterator[None]:
    """By hand, as far as that is possible: Hugging Face's model has the blocks of a Bridge in lists of its own."""
    if tiny.HOOKED and not hasattr(model, "original_model"):
        blocks, n_layers = model.blocks, model.cfg.n_layers
        model.blocks = torch.nn.ModuleList([blocks[layer] for layer in order])
        model.cfg.n_layers = len(order)
        yield
        model.blocks, model.cfg.n_layers = blocks, n_layers
    else:
        with net.reordered(order):
            yield


def read_at_q(net: Any, batch: Any, final: Tensor) -> Tensor:
    """Logits of the last residual: those of the label words at q, or of everything in text."""
    if not hasattr(batch, "target"):
        return net.lens(final)
    return net.lens(final[torch.arange(len(final)), batch.target])[:, batch.label_ids]


def plain_logits(model: Any, text: bool) -> Tensor:
    return effect(model, catalogue.text() if text else catalogue.prompts()).cpu()


def effect(model: Any, material: Any, *patches: Patch) -> Tensor:
    """What comes out at the end: label logits of prompts, all logits of text."""
    if not isinstance(material, TokenCorpus):
        return run(model, material, patches=patches, batch_size=2).label_logits
    net = hooked(model)
    with torch.no_grad(), evaluating(model):
        return net.lens(net.forward(material.batch(net.device).tokens))


def test_engines_equal_the_plain_path(model: Any) -> None:
    before = fingerprint(model)
    for engine in catalogue.engines():
        close(*catalogue.ENGINES[engine](model))
    assert differences(before, fingerprint(model)) == []


def measured(study: Study, model: Any) -> Result | None:
    """A study's result; None where a random model gives it nothing to tell, as it may only for one reason."""
    told = "errors to diagnose|need differences|needs differences" if study.name == "error-diagnosis" else "(?!)"
    try:
        return study.run(model, catalogue.studied(study), batch_size=2)
    except InputError as error:
        if not re.search(told, str(error)):
            raise
        return None


@pytest.mark.xdist_group("contract of studies")
def test_studies_run_and_leave_the_model_alone(model: Any) -> None:
    before = fingerprint(model)
    for study in catalogue.studies():
        if (result := measured(study, model)) is None:
            continue
        assert len(result.table)
        if model.cfg.model_name == "tiny-gpt2":  # what follows the table knows no architecture
            assert len(result.summary())
            assert result.finding()
    assert differences(before, fingerprint(model)) == []


class Stop(Exception):
    """Thrown from inside a hook."""


@pytest.mark.xdist_group("contract when thrown")
@pytest.mark.parametrize(
    ("family", "error", "layers"),
    [("gpt2", Stop, range(3)), ("gpt2", KeyboardInterrupt, [1]), ("gptj", Stop, [1]), ("llama", Stop, [1])],
)
def test_whatever_is_thrown_inside_leaves_the_model_as_it_was(
    family: str, error: type[BaseException], layers: Sequence[int]
) -> None:  # fmt: skip
    model = unusual(tiny.fresh(family))
    for layer in layers:
        armed, thrown = [True], []

        def throw(value: Tensor, hook: Any, armed: list[bool] = armed, thrown: list[bool] = thrown) -> None:
            if armed:
                thrown.append(True)
                raise error

        model.add_hook(f"blocks.{layer}.hook_resid_post", throw)
        before, silent = fingerprint(model), []
        for job in catalogue.jobs():
            thrown.clear()
            try:
                job(model)
            except error:
                assert thrown
            else:
                assert not thrown, f"{job.name} swallowed what was thrown"
                silent.append(job.name)
            assert differences(before, fingerprint(model)) == [], job.name
        # Weights alone are read, and a block that is replaced is not run.
        replaced = {"Replace", "Replace(layer=0, source=2) on the model"}
        assert set(silent) <= {*_OF_WEIGHTS, *replaced}
        armed.clear()


@pytest.mark.parametrize("family", FEW)
def test_a_run_inside_a_run(family: str) -> None:
    """Started from a hook of another: both give what they give alone, and the model is as before."""
    model, prompts = unusual(tiny.fresh(family)), catalogue.prompts()
    probes: list[Probe] = [SaliencyFlow(), LabelAttention(), LogitLens()]
    patch = IsolateLabels((0,))
    outer, inner = run(model, prompts, probes, [patch]), run(model, prompts[:1], probes)
    found: list[Run] = []

    class Nested(Patch):
        def hooks(self, net: Any, batch: Any) -> list[Hook]:
            def start(value: Tensor, hook: Any) -> Tensor:
                found.append(run(model, prompts[:1], probes))
                return value

            return [("blocks.1.hook_resid_pre", start)]

    before = fingerprint(model)
    nested = run(model, prompts, probes, [patch, Nested()])
    assert differences(before, fingerprint(model)) == []
    assert len(found) == 1
    for ours, alone in ((nested, outer), (found[0], inner)):
        close(ours.label_logits, alone.label_logits)
        for probe in probes:
            close_readings(ours[probe], alone[probe])


def test_a_run_inside_another_ones_modes() -> None:
    """Gradients are taken where the caller has switched them off, and nothing of that leaks."""
    model, prompts = tiny.fresh("gpt2"), catalogue.prompts()
    expected = run(model, prompts, [probe := SaliencyFlow()])[probe]
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            before = fingerprint(model)
            close_readings(run(model, prompts, [probe])[probe], expected)
            assert differences(before, fingerprint(model)) == []


@pytest.mark.xdist_group("contract in half precision")
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("family", FEW)
def test_half_precision_gives_float32_statistics(family: str, dtype: torch.dtype) -> None:
    model = tiny.fresh(family).to(dtype)
    whole = tiny.model(family)
    before = fingerprint(model)
    for probe in catalogue.probes():
        reading, exact = (run(one, catalogue.material(probe), [probe])[probe] for one in (model, whole))
        for name, values in reading.quantities.items():
            assert values.dtype in (torch.float32, torch.float64, torch.int64), f"{name} of {probe} is {values.dtype}"
            if (type(probe).__name__, name) == OF_THE_PREDICTION:
                continue
            if values.is_floating_point() and probe.objective is None:
                drift = DRIFT_OF_RANKS if name in RANKS else DRIFT[dtype]
                close(values.nan_to_num(), exact[name].nan_to_num(), drift)
    for patch in catalogue.patches():
        if not isinstance(catalogue.material(patch), TokenCorpus):
            logits = run(model, catalogue.prompts(), patches=[patch]).label_logits
            assert logits.dtype == torch.float32
            close(logits, run(whole, catalogue.prompts(), patches=[patch]).label_logits, DRIFT[dtype])
    for engine in catalogue.engines():
        ours, plain = catalogue.ENGINES[engine](model)
        assert ours.dtype == plain.dtype == torch.float32
        close(ours, plain, 0.1)
    for study in catalogue.studies() if (family, dtype) == ("gpt2", torch.bfloat16) else []:
        measured(study, model)
    assert differences(before, fingerprint(model)) == []


@pytest.mark.parametrize("kind", ["bloom", *(["attn-only"] if tiny.HOOKED else [])])
def test_what_an_architecture_lacks_is_refused_by_name(kind: str) -> None:
    """ALiBi, and a model without MLPs: right, or one sentence that names the model and what is missing."""
    model = tiny.fresh("bloom") if kind == "bloom" else attention_only()
    before = fingerprint(model)
    refused: dict[str, str] = {}
    for job in catalogue.jobs():
        try:
            job(model)
        except InputError as error:
            refused[job.name] = str(error)
        assert differences(before, fingerprint(model)) == [], job.name
    assert all(model.cfg.model_name in sentence for sentence in refused.values()), refused
    assert ("read_context" if kind == "bloom" else "DropMLP") in refused
    assert "SaliencyFlow" not in refused


def attention_only() -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=tiny.N_CTX, d_head=8, n_heads=4, d_vocab=tiny.D_VOCAB, attn_only=True, seed=0,
        model_name="attention-alone", normalization_type="LN", device="cpu",
    )  # fmt: skip
    model = HookedTransformer(cfg)
    model.tokenizer = tiny.tokenizer()
    return model
