"""Moments of cos(w_out, W_U) of every neuron: the authors' way against ours, in turns, with equal results.

    python benchmarks/neurons.py [--n-layers 12] [--size gpt2-xl --device cuda]

The authors' algorithm, written out in plain code: for each layer `model.W_out[layer]`, which stacks the weights of all
layers anew, the product of the normed weights, [d_mlp, d_vocab], and mean, variance, skewness and kurtosis of it
through a temporary of that size for each step.

Ours is `vocabulary_moments` with one top token. Both need the same matrix product, which the table shows alone next to
them: no way of computing these moments exactly does without it. Memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from measuring import Clock, Memory, Rate, arguments, in_own_process, interleaved, machine, random_model, row
from torch import Tensor
from transformer_lens import HookedTransformer

from mechicl.mlp_neurons import VocabularyMoments, vocabulary_moments

MOMENTS = ("mean", "variance", "skewness", "kurtosis")
ENOUGH = 1.0
"""GiB that the moments of GPT-2 small's neurons may take in addition to the model and the libraries."""


def main() -> None:
    asked = arguments(__doc__, tokens=0, length=1).parse_args()
    model = random_model(asked)
    if asked.alone:
        return alone(model, asked)
    clock = Clock(asked.device)
    rate = Rate(model, clock)
    rate.measure()
    found: list[Tensor] = []
    for turn in interleaved(authors_way(model, clock, found), model.cfg.n_layers):
        rate.measure()
        if turn % max(1, model.cfg.n_layers // asked.repeats) == 0:
            result = clock.time("ours", lambda: ours(model))
    for index, name in enumerate(MOMENTS):
        expected = torch.stack([moments[index] for moments in found])
        torch.testing.assert_close(
            getattr(result, name).float(), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )
    print(machine(model, rate))
    n_neurons = model.cfg.n_layers * model.cfg.d_mlp
    operations = 2 * n_neurons * model.cfg.d_model * model.cfg.d_vocab
    authors, seconds = clock.total("authors"), clock.median("ours")
    product = operations / rate.operations * clock.median("product")
    row("neurons", "authors' way, s", "ours, s", "ratio", "product alone, s", "share of its rate")
    row("---", "---", "---", "---", "---", "---")
    row(n_neurons, f"{authors:.1f}", f"{seconds:.1f}", f"{authors / seconds:.1f}", f"{product:.1f}",
        f"{product / seconds:.0%}")  # fmt: skip
    options = ["--size", asked.size, "--device", asked.device, "--dtype", asked.dtype]
    print(in_own_process([*options, *(["--n-layers", str(asked.n_layers)] if asked.n_layers else [])]))


def ours(model: HookedTransformer) -> VocabularyMoments:
    return vocabulary_moments(model.W_U, (block.mlp.W_out for block in model.blocks), top=1)


def alone(model: HookedTransformer, asked: argparse.Namespace) -> None:
    """Our way only, for its memory."""
    with Memory(asked.device) as memory:
        ours(model)
    taken = memory.most - memory.before
    assert taken < ENOUGH or asked.size != "gpt2", f"{taken:.2f} GiB"
    print(f"in its own process: {taken:.2f} GiB in addition to model and libraries ({memory.before:.2f} GiB)")


@torch.no_grad()
def authors_way(model: HookedTransformer, clock: Clock, found: list[Tensor]) -> Iterator[None]:
    """One step a layer: `found` gets its moments, [moment, neuron]."""
    for layer in range(model.cfg.n_layers):
        found.append(clock.time("authors", lambda i=layer: _layer_moments(model, i)).cpu())
        yield


def _layer_moments(model: HookedTransformer, layer: int) -> Tensor:
    W_U, W_out = model.W_U.float(), model.W_out[layer].float()
    cosines = (W_out / W_out.norm(dim=1, keepdim=True)) @ (W_U / W_U.norm(dim=0, keepdim=True))
    mean = cosines.mean(dim=1)
    differences = cosines - mean[:, None]
    variance = torch.pow(differences, 2.0).mean(dim=1)
    scores = differences / torch.pow(variance, 0.5)[:, None]
    return torch.stack([mean, variance, torch.pow(scores, 3.0).mean(dim=1), torch.pow(scores, 4.0).mean(dim=1)])


if __name__ == "__main__":
    main()
