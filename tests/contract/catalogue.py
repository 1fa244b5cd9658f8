"""Everything that mechicl can do to a model, found by itself: a new probe, patch, engine or study is tested or missed.

Classes and functions are enumerated from the package. What cannot be made without arguments needs an example here;
`examples` fails with the name of what lacks one.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch

import mechicl.engines
import mechicl.patches
import mechicl.probes
from mechicl.corpora import TokenCorpus, WordPairs, load_corpus, load_word_pairs
from mechicl.engines.alone import label_logits_alone
from mechicl.engines.attribution import attributed
from mechicl.engines.compression import compress, kept_positions, on_anchors, on_kept
from mechicl.engines.context import Context, read_context
from mechicl.engines.continuations import continuations
from mechicl.engines.last_token import last_tokens
from mechicl.engines.patching import SITES, Transplant, transplanted
from mechicl.engines.prefix import run_shared
from mechicl.engines.reweighting import Variant, fit_reweighting, fit_together
from mechicl.engines.rising import run_each
from mechicl.engines.timing import Ready, in_turn, whole_loop
from mechicl.engines.tuned_lens import fit_tuned_lens
from mechicl.engines.wavefront import lesion_sweep
from mechicl.hooks import Patch, Probe, run
from mechicl.metrics import kl_divergence
from mechicl.metrics.objective import Objective
from mechicl.models import frozen, hooked
from mechicl.patches import (
    AblateHeads,
    AblateParts,
    CutDemonstrations,
    CutRandomEdges,
    CutWords,
    Drop,
    DropAttention,
    DropMany,
    DropMLP,
    Exchange,
    FixNeurons,
    IsolateLabels,
    IsolatePositions,
    IsolateRandom,
    IsolateTemplate,
    Reorder,
    Repeat,
    Replace,
    ReweightAnchors,
    Steer,
    Swap,
)
from mechicl.probes import (
    AttentionMap,
    HeadSaliency,
    HeadScores,
    LensMap,
    LensTokens,
    LocalAttention,
    LookBack,
    LossAt,
    SaliencyMap,
    SubJoiner,
    TopTokens,
    WordAttention,
)
from mechicl.probes.last_position import LastNeurons
from mechicl.prompts import Prompt, PromptSet
from mechicl.studies import STUDIES
from mechicl.studies.extensions.anchor_heads import AnchorHeads
from mechicl.studies.extensions.anchor_patching import AnchorPatching
from mechicl.studies.extensions.anchor_sweep import AnchorSweep
from mechicl.studies.extensions.decision_layer import DecisionLayer
from mechicl.studies.extensions.shot_sweep import ShotSweep
from mechicl.studies.label_words.compression import Compression
from mechicl.studies.label_words.compression_speed import CompressionSpeed
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.reweighting import Reweighting
from mechicl.studies.stages.atlas import Atlas
from mechicl.studies.stages.benchmarks import LesionedBenchmarks
from mechicl.studies.stages.causal_stages import CausalStages
from mechicl.studies.stages.cka import Cka
from mechicl.studies.stages.class_logits import ClassLogits
from mechicl.studies.stages.context_exchange import ContextExchange
from mechicl.studies.stages.entropy_neurons import EntropyNeurons
from mechicl.studies.stages.joiner_ablation import JoinerAblation
from mechicl.studies.stages.lens import LensStudy
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.stages.many_lesions import ManyLesions
from mechicl.studies.stages.right_then_wrong import RightThenWrong
from mechicl.studies.stages.voting import Voting
from mechicl.studies.stages.word_identity import WordIdentity
from mechicl.studies.study import Study
from mechicl.tasks import Task
from mechicl.tasks.benchmarks import Benchmarks
from tests import tiny

# ---- what is run on

TEXTS = ("a good film", "bad film, bad", "Business", "so bad it was", "film of the year", "the worst", "fine", "dull")
_NAMES = ("World", "Sports", "Business", "Technology")
_ROWS = [{"text": text, "label": name} for i, text in enumerate(TEXTS) for name in (_NAMES[i % 4], _NAMES[i // 2])]
TASK = Task(
    "four classes", "Article: {text}\nAnswer:{label}", {name: f" {name}" for name in _NAMES},
    {"train": _ROWS, "test": _ROWS[:5]},
)  # fmt: skip


@functools.cache
def prompts() -> PromptSet:
    """Four classes, a template, prompts of different lengths behind the same demonstrations."""
    return TASK.prompts(tiny.tokenizer(), seed=0, samples=3)


@functools.cache
def text() -> TokenCorpus:
    """Running text with words of one and of several tokens; sequences of different lengths."""
    documents = [" ".join(TEXTS[i % 8] for i in range(start, start + 4)) for start in range(4)]
    return load_corpus(tiny.tokenizer(), documents, prepend_bos=True, n_ctx=24, packing="documents")


@functools.cache
def repeated() -> TokenCorpus:
    """Random tokens twice in a row, after BOS."""
    once = torch.randint(5, 300, (3, 6), generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.zeros(3, 1, dtype=torch.long), once, once], 1)
    none = torch.zeros_like(tokens)
    return TokenCorpus(tokens, torch.full((3,), tokens.shape[1]), none, none - 1, tiny.tokenizer(), True)


@functools.cache
def word_pairs() -> WordPairs:
    """Four words, each in the same sense and in another."""
    rows = [
        {"word": word, "sentence1": f"a {word} in the film", "sentence2": f"{other} and {word}", "label": label}
        for word in ("bank", "bat", "spring", "seal")
        for other, label in (("good", "T"), ("bad", "F"), ("fine", "T"), ("dull", "F"))
    ]
    return load_word_pairs(tiny.tokenizer(), rows, prepend_bos=True, n_ctx=tiny.N_CTX)


# ---- probes and patches


def _members(package: ModuleType) -> Iterator[Any]:
    """Public classes and functions that a package's modules define."""
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, member in inspect.getmembers(module):
            if not name.startswith("_") and getattr(member, "__module__", None) == module.__name__:
                yield member


def _classes(package: ModuleType, *kinds: type) -> list[type]:
    found = [m for m in _members(package) if isinstance(m, type) and issubclass(m, kinds)]
    return [kind for kind in found if not inspect.isabstract(kind)]


_PROBES: dict[type, Callable[[], list[Probe]]] = {
    AttentionMap: lambda: [AttentionMap((0, -1))],
    HeadSaliency: lambda: [HeadSaliency(1)],
    LensMap: lambda: [LensMap((0, 4))],
    LensTokens: lambda: [LensTokens((1, 4), k=2)],
    SaliencyMap: lambda: [SaliencyMap((0, 2)), SaliencyMap((1,), "sum_of_abs")],
    TopTokens: lambda: [TopTokens(4)],
    LastNeurons: lambda: [LastNeurons(((0, 1), (2, 5), (0, 0)))],
    LocalAttention: lambda: [LocalAttention((1, 5))],
    LookBack: lambda: [LookBack(((0, 1), (-1, 3)), 4)],
    LossAt: lambda: [LossAt(lambda words: words >= 0)],
    SubJoiner: lambda: [SubJoiner(2)],  # of longer words there are few: in half precision single ranks turn
    WordAttention: lambda: [WordAttention(1)],
}
_NEEDS_WORDS = (LossAt, SubJoiner, WordAttention, CutWords)
_ONLY_TEXT = (*_NEEDS_WORDS, LocalAttention)

_PATCHES: dict[type, Callable[[], list[Any]]] = {
    CutDemonstrations: lambda: [CutDemonstrations((0, 1))],
    CutWords: lambda: [CutWords((0, 1)), CutWords((0,), "before")],
    IsolateLabels: lambda: [IsolateLabels((0, 1), mode=mode) for mode in ("presoftmax", "postsoftmax_renorm")],  # type: ignore[arg-type]
    IsolateTemplate: lambda: [IsolateTemplate((0, 1, 2))],
    IsolateRandom: lambda: [IsolateRandom((0, 2)), IsolateRandom((0,), pool="demo_text", resample="per_seed")],
    CutRandomEdges: lambda: [CutRandomEdges((0, 1))],
    Exchange: lambda: [
        Exchange(
            IsolateLabels((0, 1)),
            {prompt: prompt for prompt in prompts()},
            {prompt: torch.linspace(-1, 1, 2 * 4 * tiny.D_MODEL).reshape(2, 4, -1) for prompt in prompts()},
        )
    ],
    IsolatePositions: lambda: [IsolatePositions((0,), positions={prompt: [[3, 4]] for prompt in prompts()})],
    ReweightAnchors: lambda: [
        ReweightAnchors(torch.linspace(-1, 1, 4).reshape(1, 1, 4), placement)  # type: ignore[arg-type]
        for placement in ("postsoftmax", "presoftmax")
    ],
    Drop: lambda: [Drop(1), Drop(1, positions="rest")],
    DropAttention: lambda: [DropAttention(0), DropAttention(-2, positions="rest")],
    DropMLP: lambda: [DropMLP(2), DropMLP(-1, positions=lambda batch: batch.tokens % 2 == 0)],
    DropMany: lambda: [DropMany((0, 2))],
    FixNeurons: lambda: [FixNeurons(((0, 1), (2, 3)), 1.5)],
    AblateParts: lambda: [AblateParts("attn", (0, 2)), AblateParts("mlp", (-1,), positions="rest")],
    AblateHeads: lambda: [AblateHeads(((0, 1), (-1, 3))), AblateHeads(((0, 2),), positions="rest")],
    Steer: lambda: [
        Steer(torch.linspace(-1, 1, tiny.D_MODEL), 1),
        Steer(torch.arange(tiny.D_MODEL), 2, 0.1, point="mlp_out"),
    ],
    Swap: lambda: [Swap(0)],
    Replace: lambda: [Replace(0, 2)],
    Reorder: lambda: [Reorder((2, 0, 1))],
    Repeat: lambda: [Repeat(0, 2)],
}


def _made(kind: type, given: dict[type, Callable[[], list[Any]]]) -> list[Any]:
    if kind in given:
        return given[kind]()
    try:
        return [kind()]
    except TypeError:
        raise AssertionError(f"{kind.__name__} has no example; add one to tests/contract/catalogue.py") from None


def probes() -> list[Probe]:
    """An instance or more of every probe."""
    return [one for kind in _classes(mechicl.probes, Probe) for one in _made(kind, _PROBES)]


def patches() -> list[Any]:
    """An instance or more of every patch."""
    return [one for kind in _classes(mechicl.patches, Patch) for one in _made(kind, _PATCHES)]


def material(part: Any) -> PromptSet | TokenCorpus:
    """What a probe or a patch is run on: prompts, unless it is at home in running text alone."""
    if isinstance(part, HeadScores):
        return repeated()
    return text() if isinstance(part, _ONLY_TEXT) else prompts()


# ---- engines

Pair = tuple[torch.Tensor, torch.Tensor]
"""What an engine gives, and the same from whole forward passes."""


def _shared(model: Any) -> Pair:
    patches = [IsolateLabels((0,))]
    return (
        run_shared(model, prompts(), patches=patches).label_logits,
        run(model, prompts(), patches=patches).label_logits,
    )


def _asked(model: Any) -> Pair:
    context = read_context(model, prompts()[0])
    return context.ask(model, prompts()).label_logits, run(model, prompts()).label_logits


@dataclass(frozen=True)
class Hide(Patch):
    """Keys before the query that are not among these are hidden from the query."""

    places: tuple[int, ...]
    query_start: int

    def hooks(self, net: Any, batch: Any) -> list[Any]:
        hidden = torch.ones(batch.tokens.shape[1], dtype=torch.bool, device=batch.device)
        hidden[[*self.places, *range(self.query_start, len(hidden))]] = False
        mask = hidden & (torch.arange(len(hidden), device=batch.device) >= self.query_start)[:, None]
        cut = lambda scores, hook: scores.masked_fill(mask, -torch.inf)  # noqa: E731
        return [(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in range(net.sizes.n_layers)]


def _compressed(model: Any) -> Pair:
    """Dropping keys is hiding them from the query."""
    prompt, one = prompts()[0], prompts()[:1]
    context = compress(model, prompt)
    plain = run(model, one, patches=[Hide(context.places, prompt.query_start)])
    return context.ask(model, one).label_logits, plain.label_logits


def _on_anchors(model: Any) -> Pair:
    """The same for all prompts of a context, with a patch at q."""
    first, patch = prompts()[0], ReweightAnchors(torch.linspace(-1, 1, 4).reshape(1, 1, 4))
    hide = Hide(kept_positions(first), first.query_start)
    ours = on_anchors(model, prompts(), [patch], batch_size=2)
    return ours.label_logits, run(model, prompts(), patches=[hide, patch]).label_logits


def _last(model: Any) -> Pair:
    patch = ReweightAnchors(torch.linspace(-1, 1, 4).reshape(1, 1, 4))
    with torch.no_grad(), frozen(model):
        ours = torch.cat([last.label_logits(model, [patch]) for last in last_tokens(model, prompts())])
    return ours, run(model, prompts(), patches=[patch]).label_logits


def _on_all_kept(model: Any) -> Pair:
    """A context of which all is kept is the prompt."""
    ours = on_kept(model, prompts(), lambda prompt: [range(prompt.query_start)], batch_size=2)[0]
    return ours.label_logits, run(model, prompts()).label_logits


def _fitted(model: Any) -> Pair:
    """The first loss is that of the whole pass."""
    asked = prompts()
    fit = fit_reweighting(model, asked, epochs=1, order=[[1]])
    logits = run(model, asked.select([1])).label_logits
    return fit.losses, torch.nn.functional.cross_entropy(logits, asked.gold[1:2])[None]


def _fitted_together(model: Any) -> Pair:
    """In lockstep each learns what it learns alone."""
    asked, options = prompts(), {"epochs": 1, "order": [[2, 0]]}
    ours = fit_together(model, [Variant(asked), Variant(asked, placement="presoftmax")], **options)
    alone = [fit_reweighting(model, asked, placement=where, **options) for where in ("postsoftmax", "presoftmax")]
    return tuple(torch.cat([part.flatten() for fit in fits for part in (fit.losses, fit.patch.beta)])
                 for fits in (ours, alone))  # type: ignore[return-value]  # fmt: skip


def _timed(model: Any, clock: Callable[[Any, list[Ready]], Any]) -> Pair:
    """What is asked under the clock is what is asked without."""
    net, asked = hooked(model), prompts()
    ways = [Ready.whole(net, asked), Ready.on(net, read_context(model, asked[0]), asked)]
    seconds, predicted = zip(*clock(model, ways), strict=True)
    assert all(np.all(of_way > 0) for of_way in seconds)
    with torch.no_grad(), frozen(model):
        ours = torch.cat([way.ask(net, i) for way in ways for i in range(len(way))])
    assert np.concatenate(predicted).tolist() == ours.argmax(-1).tolist()
    return ours.float(), run(model, asked).label_logits.repeat(2, 1)


def _lens_fitted(model: Any) -> Pair:
    """Before the first step it reads as the logit lens: the KL of the final prediction to each layer's."""
    net, one = hooked(model), text()[:1]
    ours = fit_tuned_lens(model, one, steps=1, batch_size=1).kl
    seen: list[torch.Tensor] = []
    hooks = [(f"blocks.{i}.hook_resid_pre", lambda resid, hook: seen.append(resid)) for i in range(net.sizes.n_layers)]
    length = int(one.lengths[0])
    with torch.no_grad(), frozen(model), net.hooks(hooks):
        final = net.lens(net.forward(one.tokens.to(net.device)))
    plain = [kl_divergence(final, net.lens(resid))[0, 1:length].mean() for resid in seen]
    assert ours is not None
    return ours[0], torch.stack(plain)


def _swept(model: Any) -> Pair:
    net, tokens, lesions = hooked(model), text().tokens, [Drop(0), Swap(1)]
    lengths = text().lengths
    found = lesion_sweep(model, tokens.to(net.device), lesions, lengths=lengths, top_k=0).kl
    expected = []
    with torch.no_grad(), frozen(model):
        base = net.lens(net.forward(tokens))
        for lesion in lesions:
            with lesion.on(model):
                expected.append(kl_divergence(base, net.lens(net.forward(tokens))))
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    return found[:, real], torch.stack(expected).cpu()[:, real]


def _continued(model: Any) -> Pair:
    requests, lesions = [("a good", " film"), ("a bad film,", " so bad"), ("", "fine")], [Drop(0), Swap(1)]
    found = continuations(model, requests, lesions, prepend_bos=True, batch_size=2).log_prob
    expected = []
    for lesion in (Replace(0, 0), *lesions):
        with torch.no_grad(), frozen(model), lesion.on(model):
            expected.append([_log_prob(model, context, continuation) for context, continuation in requests])
    return found, torch.tensor(expected)


_PARTS = {"keys_values": ("attn.hook_k", "attn.hook_v")}


def _other_labels(prompt: Prompt) -> Prompt:
    tokens = list(prompt.tokens)
    for place in prompt.label_positions:
        tokens[place] = 7 + place
    return replace(prompt, tokens=tuple(tokens))


def _names(site: str, layers: Sequence[int]) -> list[str]:
    return [f"blocks.{layer}.{part}" for layer in layers for part in _PARTS.get(site, (f"hook_{site}",))]


def _states(net: Any, prompt: Prompt) -> dict[str, torch.Tensor]:
    states: dict[str, torch.Tensor] = {}
    keep = lambda name: lambda value, hook: states.__setitem__(name, value[0].detach())  # noqa: E731
    names = [name for site in SITES for name in _names(site, range(net.sizes.n_layers))]
    with torch.no_grad(), frozen(net), net.hooks([(name, keep(name)) for name in names]):
        net.forward(torch.tensor([prompt.tokens], device=net.device))
    return states


@dataclass(frozen=True, eq=False)
class Put(Patch):
    """Write at some positions what another prompt has there."""

    states: Any
    transplant: Transplant

    def hooks(self, net: Any, batch: Any) -> list[Any]:
        site, layers, positions = self.transplant
        places = [place % batch.tokens.shape[1] for place in positions]

        def write(name: str) -> Any:
            chosen = torch.tensor(places, device=batch.device)
            return lambda value, hook: value.index_copy(1, chosen, self.states[name][None, chosen].to(value))

        return [(name, write(name)) for name in _names(site, layers)]


@dataclass(frozen=True)
class Shifted(Patch):
    """Other embeddings, before the first block."""

    def hooks(self, net: Any, batch: Any) -> list[Any]:
        return [("hook_embed", lambda value, hook: value + 1)]


def _each(model: Any) -> Pair:
    """Isolation of one layer after the other."""
    lists = [[IsolateLabels((layer,))] for layer in range(hooked(model).sizes.n_layers)]
    ours = [out.label_logits for out in run_each(model, prompts(), [], lists)]
    return torch.stack(ours), torch.stack([run(model, prompts(), patches=one).label_logits for one in lists])


def _alone(model: Any) -> Pair:
    """Patches inside the blocks share what lies below them; one of the embedding takes a run of its own."""
    prompt = prompts()[0]
    inside = [IsolateLabels((0, 1)), Drop(1), AblateHeads(((-1, 3),)), Swap(0)]
    asked = [*inside, Shifted()]
    plain = [run(model, [prompt], patches=[one], progress=None).label_logits[0] for one in asked]
    return label_logits_alone(model, prompt, asked), torch.stack(plain)


def _transplanted(model: Any) -> Pair:
    net, base = hooked(model), prompts()[0]
    source, labels = _other_labels(base), base.label_positions
    asked = [Transplant(site, (1,), places) for site in SITES for places in (labels, (-1,))]
    asked.append(Transplant("keys_values", tuple(range(net.sizes.n_layers)), labels))
    states = _states(net, source)
    plain = [run(model, [base], patches=[Put(states, one)], progress=None).label_logits[0] for one in asked]
    return transplanted(model, [base], [source], asked, batch_size=4)[0], torch.stack(plain)


def _attributed(model: Any) -> Pair:
    """The gradient is that of the same objective, through values that hooks return."""
    net, base = hooked(model), prompts()[0]
    source, kinds = _other_labels(base), [base.label_positions, (1, 4)]
    ours = attributed(model, base, source, kinds)
    states, values = _states(net, source), dict[str, torch.Tensor]()

    def keep(name: str) -> Any:
        def see(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value.retain_grad()
            values[name] = value
            return value

        return see

    layers = range(net.sizes.n_layers)
    leaf = ("hook_embed", lambda value, hook: value.detach().requires_grad_())
    watched = [(name, keep(name)) for site in SITES for name in _names(site, layers)]
    with torch.enable_grad(), frozen(model), net.hooks([leaf, *watched]):
        final = net.forward(torch.tensor([base.tokens], device=net.device))[:, -1:]
        logits = net.read(final)[:, 0].float()[:, list(base.label_ids)]
        Objective("logit_difference")(logits, torch.tensor([base.gold], device=net.device)).sum().backward()  # type: ignore[no-untyped-call]

    def change(name: str, kind: Sequence[int]) -> torch.Tensor:
        gradient = values[name].grad
        assert gradient is not None
        return ((states[name] - values[name].detach()[0]).float() * gradient[0].float())[list(kind)].sum()

    expected = [
        [
            [torch.stack([change(name, kind) for name in _names(site, [layer])]).sum() for kind in kinds]
            for layer in layers
        ]
        for site in SITES
    ]
    plain = torch.stack([torch.stack([torch.stack(row) for row in of_site]) for of_site in expected])
    return ours, plain.cpu()


def _log_prob(model: Any, context: str, continuation: str) -> float:
    """Of one continuation, by a plain forward pass."""
    tokenizer = tiny.tokenizer()
    own, ids = ([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]] for text in (context, context + continuation))
    tokens = torch.tensor([ids], device=model.cfg.device)
    log_p = model(tokens, prepend_bos=False, padding_side="right")[0].float().log_softmax(-1)
    return sum(float(log_p[at - 1, ids[at]]) for at in range(len(own), len(ids)))


ENGINES: dict[Callable[..., Any], Callable[[Any], Pair]] = {
    attributed: _attributed,
    transplanted: _transplanted,
    run_shared: _shared,
    run_each: _each,
    read_context: _asked,
    compress: _compressed,
    last_tokens: _last,
    label_logits_alone: _alone,
    on_anchors: _on_anchors,
    on_kept: _on_all_kept,
    fit_reweighting: _fitted,
    fit_together: _fitted_together,
    in_turn: lambda model: _timed(model, lambda m, ways: zip(*in_turn(m, ways, warm_up=1, repeats=1), strict=True)),
    whole_loop: lambda model: _timed(model, lambda m, ways: [whole_loop(m, way) for way in ways]),
    fit_tuned_lens: _lens_fitted,
    lesion_sweep: _swept,
    continuations: _continued,
}


def engines() -> list[Callable[..., Any]]:
    """Every engine: a function of a model that a module of `mechicl.engines` makes public."""
    found = [
        member
        for member in _members(mechicl.engines)
        if inspect.isfunction(member) and next(iter(inspect.signature(member).parameters), "") == "model"
    ]
    missing = [member.__name__ for member in found if member not in ENGINES]
    assert not missing, f"{missing} have no plain path to be compared with; add it to tests/contract/catalogue.py"
    return found


# ---- studies

_STUDIES: dict[str, Callable[[], Study]] = {
    "decision-layer": lambda: DecisionLayer(untrained=0),
    "anchor-patching": lambda: AnchorPatching(untrained=0, exact=1),
    "anchor-heads": lambda: AnchorHeads(untrained=0, k=2, draws=1),
    "shot-sweep": lambda: ShotSweep(untrained=0, counts=(1,)),
    "isolation": lambda: Isolation(n_layers=(1,)),
    "compression": lambda: Compression(n_sets=2, positions=("original",)),
    "compression-speed": lambda: CompressionSpeed(warm_up=0, repeats=1, per_class=0),
    "reweighting": lambda: Reweighting(epochs=1, per_class=1, more_shots=0),
    "error-diagnosis": lambda: ErrorDiagnosis(components=(2,), contexts=1),
    "anchor-sweep": lambda: AnchorSweep(windows=(2,)),
    "entropy-neurons": lambda: EntropyNeurons(neurons=1, controls=1, values=(1.0,)),
    "layer-lesions": lambda: Lesions(kinds=("drop", "swap"), untrained=0),
    "logit-lens": lambda: LensStudy(untrained=0),
    "cka": lambda: Cka(untrained=0),
    "joiner-ablation": lambda: JoinerAblation(pieces=(2,), heads=2, draws=2),
    "right-then-wrong": lambda: RightThenWrong(untrained=0),
    "causal-stages": lambda: CausalStages(bands=2, draws=2),
    "stages-atlas": lambda: Atlas(untrained=0),
    "many-lesions": lambda: ManyLesions(draws=2, spare_ends=False),
    "benchmarks": lambda: LesionedBenchmarks(kinds=("drop",)),
    "context-exchange": lambda: ContextExchange(untrained=0),
    "class-logits": lambda: ClassLogits(token_class=("Happy", "Sad"), neurons=4, kurtosis=0.0, variance=0.0),
    "voting": lambda: Voting(token_class=("Happy", "Sad"), neurons=1, pairs=20, context=6, kurtosis=0.0, variance=0.0),
    "word-identity": lambda: WordIdentity(pieces=(2,), occurrences=5, classes=2, context=6),
}
"""Studies with less to do than by default; the others are taken as they are."""


@functools.cache
def more_text() -> TokenCorpus:
    """Words of a class and others behind the same tokens, and words of two tokens that end alike."""
    draw = np.random.default_rng(0)
    words = ["Happy", "Sad", "World", "ax", "bx", "a b", "c b"]
    documents = [" " + " ".join(words[i] for i in draw.integers(0, len(words), 40)) for _ in range(12)]
    return load_corpus(tiny.tokenizer(), documents, prepend_bos=True, n_ctx=80, packing="documents")


def benchmark() -> Benchmarks:
    """Two questions, scored as lm-evaluation-harness does, which is an extra and need not be there."""
    asked = [(("a good", " film"), ("a good", " dull")), (("so bad it", " was"), ("so bad it", " is"))]
    found = Benchmarks({})

    def score(answer: Callable[[Any], Any]) -> pd.DataFrame:
        given = [[log_prob for log_prob, _ in answer(list(choices))] for choices in asked]
        rows = [{"benchmark": "own", "prompt": i, "acc": float(one[0] > one[1]), "acc_norm": np.nan}
                for i, one in enumerate(given)]  # fmt: skip
        return pd.DataFrame(rows)

    facts = {"requests": [one for choices in asked for one in choices], "score": score, "provenance": dict}
    vars(found).update(facts)
    return found


WANTS_WORDS = ("inner-lexicon", "part-of-speech")
"""Need a hundred words with a token of their own, and an extra: see their own tests."""


def studies() -> list[Study]:
    """One of every registered study but two."""
    subclasses = {
        kind for kind in _subclasses(Study) if kind.__module__.startswith("mechicl.") and "name" in vars(kind)
    }
    unknown = subclasses - set(STUDIES.values())
    assert not unknown, f"{unknown} are not in STUDIES, so a saved result of theirs cannot be loaded"
    return [_STUDIES.get(name, kind)() for name, kind in STUDIES.items() if name not in WANTS_WORDS]


def _subclasses(kind: type) -> Iterator[type]:
    for own in kind.__subclasses__():
        yield own
        yield from _subclasses(own)


@functools.cache
def studied(study: Study) -> PromptSet | TokenCorpus | WordPairs | Benchmarks | None:
    """What a study is run on."""
    if study.reads == "pairs":
        return word_pairs()
    if study.reads == "benchmarks":
        return benchmark()
    if study.name in ("voting", "word-identity", "word-merging", "joiner-ablation"):
        return more_text()
    if study.reads != "prompts":
        return text() if study.reads == "text" else None
    make = getattr(study, "prompts", None)
    return prompts() if make is None else make(TASK, tiny.tokenizer(), seed=0, samples=3)


# ---- everything


@dataclass(frozen=True)
class Job:
    """Something that runs a model; `known_to_refuse` marks what an unusual model may lack."""

    name: str
    work: Callable[[Any], Any]

    def __call__(self, model: Any) -> Any:
        return self.work(model)


def jobs() -> list[Job]:
    """Every probe, patch, engine and study, each as something to do with a model."""
    found = [Job(_name(p), lambda model, p=p: run(model, material(p), [p])) for p in probes()]
    for patch in patches():
        found.append(Job(_name(patch), lambda model, p=patch: run(model, material(p), patches=[p])))
        found.append(Job(f"{patch} on the model", lambda model, p=patch: _run_on(model, p)))
    found += [Job(engine.__name__, ENGINES[engine]) for engine in engines()]
    found += [Job(study.name, lambda model, s=study: s.run(model, studied(s), batch_size=2)) for study in studies()]
    return found


def _run_on(model: Any, patch: Patch) -> Any:
    batch = material(patch).batch(hooked(model).device)
    with frozen(model), patch.on(model, batch):
        return hooked(model).forward(batch.tokens)


def _name(part: Any) -> str:
    return f"{type(part).__name__}"


__all__ = [
    "ENGINES",
    "Context",
    "Job",
    "engines",
    "jobs",
    "material",
    "patches",
    "probes",
    "prompts",
    "studied",
    "studies",
    "text",
]
