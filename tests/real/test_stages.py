"""*The Remarkable Robustness of LLMs: Stages of Inference?* on the real model, against plain transformers.

Bounds are some five times what was measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mechicl as mi
from mechicl.mlp_neurons import classify, vocabulary_moments
from mechicl.models.processing import Processing, process
from mechicl.patches import AblateHeads, Drop
from tests.real import reference
from tests.real.conftest import Real

pytestmark = pytest.mark.xdist_group("real")
N_LAYERS = 30
DROPPED, SWAPPED = (0, 11, 29), (0, 28)


def without(layer: int) -> list[int]:
    return [i for i in range(N_LAYERS) if i != layer]


def exchanged(layer: int) -> list[int]:
    return [*range(layer), layer + 1, layer, *range(layer + 2, N_LAYERS)]


def test_dropped_and_swapped_layers(real: Real, agree: Callable[..., None]) -> None:
    lesions = [*map(mi.patches.Drop, DROPPED), *map(mi.patches.Swap, SWAPPED)]
    ours = mi.engines.lesion_sweep(real.model, real.corpus.tokens, lesions, lengths=real.corpus.lengths)
    orders = [*map(without, DROPPED), *map(exchanged, SWAPPED)]
    for text, (tokens, seen) in enumerate(zip(real.texts, real.text_passes, strict=True)):
        positions = slice(len(tokens))
        changed = [reference.logits_in_order(real.hf, tokens, order) for order in orders]
        theirs = torch.stack([reference.kl(seen.logits, logits).mean() for logits in changed])
        means = ours.kl[:, text, positions].double().mean(1)
        agree(f"KL, text {text}", means, theirs, within=1e-5, mistaken=theirs.roll(1), relative=True)
        same = torch.stack([logits.argmax(-1) == seen.logits.argmax(-1) for logits in changed])
        assert ours.agreement[:, text, positions].tolist() == same.float().tolist()


def test_layers_dropped_at_position_0_alone_and_elsewhere_alone(real: Real, agree: Callable[..., None]) -> None:
    """Layer 11 makes the attention sink: nearly all that its ablation costs is lost at position 0; layer 2 does not."""
    places = {"bos": slice(0, 1), "rest": slice(1, None)}
    lesions = [Drop(layer, positions=where) for layer in (2, 11) for where in places]
    ours = mi.engines.lesion_sweep(real.model, real.corpus.tokens, lesions, lengths=real.corpus.lengths, top_k=0)
    for text, (tokens, clean) in enumerate(zip(real.texts, real.text_passes, strict=True)):
        changed = [reference.logits_without(real.hf, tokens, layer, at) for layer in (2, 11) for at in places.values()]
        theirs = torch.stack([reference.kl(clean.logits, logits)[1:].mean() for logits in changed])
        means = ours.kl[:, text, 1 : len(tokens)].double().mean(1)
        agree(f"KL, text {text}", means, theirs, within=1e-5, mistaken=theirs.roll(1), relative=True)
        in_2, in_11 = means.view(2, 2)
        assert in_11[0] > 4 * in_11[1]
        assert in_2[0] < in_2[1]


def test_an_ablated_head(real: Real, agree: Callable[..., None]) -> None:
    """Query heads 0-2 of a layer share keys and values; ablating one leaves the others."""
    patches = [AblateHeads([(10, head)]) for head in range(3)]
    ours = mi.engines.lesion_sweep(real.model, real.corpus.tokens, patches, lengths=real.corpus.lengths, top_k=0)
    tokens, clean = real.texts[1], real.text_passes[1]
    changed = [reference.logits_without_head(real.hf, tokens, 10, head) for head in range(3)]
    theirs = torch.stack([reference.kl(clean.logits, logits).mean() for logits in changed])
    means = ours.kl[:, 1, : len(tokens)].double().mean(1)
    agree("KL", means, theirs, within=1e-4, mistaken=theirs.roll(1), relative=True)


def test_the_lens(real: Real, agree: Callable[..., None]) -> None:
    probe = mi.probes.LogitLens(only=("entropy", "kl", "kl_reverse"))
    corpus, seen = real.corpus[1:], real.text_passes[1]
    ours = mi.run(real.model, corpus, [probe])[probe]

    def measured(point: int, normed: bool = True) -> Tensor:
        logits = reference.lens(real.hf, seen.residual[point, 1:], normed)
        return reference.lens_measures(logits, seen.logits[1:]).mean(1)

    points = [0, 12, 29, 30]
    theirs = torch.stack([measured(point) for point in points])
    mistaken = theirs.clone()
    mistaken[1] = measured(12, normed=False)
    bounds = {"entropy (bits)": 5e-6, "KL (nats)": 5e-5, "reverse KL (nats)": 2e-5}
    for place, ((name, bound), values) in enumerate(zip(bounds.items(), ours.quantities.values(), strict=True)):
        agree(f"lens, {name}", values[0][points], theirs[:, place], within=bound, mistaken=mistaken[:, place])


def test_attention_to_the_previous_five(real: Real, agree: Callable[..., None]) -> None:
    table = mi.studies.local_attention(real.model, real.corpus, windows=[5]).table
    ours = torch.tensor(table["mass_5"].to_numpy()).view(len(real.texts), N_LAYERS, -1)
    theirs, with_itself = (
        torch.stack([reference.previous_mass(seen.attention, nearest=nearest) for seen in real.text_passes])
        for nearest in (1, 0)
    )
    agree("previous-five mass", ours, theirs, within=1e-6, mistaken=with_itself)


def test_norms_and_block_influence(real: Real, agree: Callable[..., None]) -> None:
    table = mi.studies.norms(real.model, real.corpus).table.assign(block_influence=lambda rows: 1 - rows["cosine"])
    for text, seen in enumerate(real.text_passes):
        theirs, with_position_0 = reference.norms(seen), reference.norms(seen, first=0)
        rows = table[table["sequence"] == text]
        for name, values in theirs.items():
            # 1 - cosine loses digits where a layer hardly turns the residual.
            relative = name != "block_influence"
            agree(f"{name}, text {text}", rows[name].tolist(), values, within=2e-6, mistaken=with_position_0[name],
                  relative=relative)  # fmt: skip


def last_layers_folded(model: Any, n: int) -> Any:
    """A copy of the embeddings and the last n layers, folded: a whole second model would take another 2 GB."""
    blocks = model.blocks
    copied = copy.deepcopy(model, {id(blocks): copy.deepcopy(blocks[-n:])})
    copied.cfg.n_layers = n
    return process(copied, Processing.named("fold"))


def test_neuron_moments_and_kinds(real: Real, agree: Callable[..., None]) -> None:
    layers, few = (29,), slice(64)
    folded = last_layers_folded(real.model, len(layers))
    ours = vocabulary_moments(folded.W_U, folded.W_out)
    kinds = classify(ours)
    bounds = {"mean": 1e-7, "variance": 5e-8, "skewness": 2e-6, "kurtosis": 2e-5}
    for place, layer in enumerate(layers):
        theirs = reference.neuron_moments(real.hf, layer)
        not_centred = reference.neuron_moments(real.hf, layer, few, centred=False)
        for name, bound in bounds.items():
            mistaken = torch.cat([not_centred[name], theirs[name][few.stop :]])
            agree(f"{name} of cosines, layer {layer}", getattr(ours, name)[place], theirs[name], within=bound,
                  mistaken=mistaken)  # fmt: skip
        heavy = theirs["kurtosis"] > 10
        for sign, kind in ((1, kinds.prediction), (-1, kinds.suppression)):
            assert int(kind[place].sum()) == int((heavy & (sign * theirs["skewness"] > 0)).sum()) > 0
