"""What the explorer shows, as plain values: the edges worth drawing, the prediction, and the lens's guesses.

Edges are measured all and sent in part: of each layer the strongest that together make `SHARE` of its saliency, and at
most `MOST`; the share that they make travels with them. Sums over all edges (S_wp, S_pq, S_ww, what flows into a token
and out of it) are taken before anything is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.hooks import Patch, run
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.probes import HeadSaliency, LensTokens, SaliencyMap
from mechicl.probes.saliency import flow
from mechicl.prompts import Prompt
from mechicl.readings import Reading

SHARE, MOST = 0.95, 120
GUESSES = 3
_KEPT = 2**26
"""Saliency values of heads that a pass may keep: 256 MiB."""


def view(model: Any, prompt: Prompt, patches: list[Patch]) -> dict[str, Any]:
    """One pass with these patches: label probabilities, every layer's flow, and the lens at q.

    `edges` are [query, key, saliency] by layer, strongest first, saliency in units of the loss; `shown` is their share
    of the layer's saliency and `total` the number of edges in it. `flow` is each layer's share of S_wp, S_pq and S_ww
    (None where nothing flows). `into` and `out` [layer token] are shares of the layer's saliency.
    """
    layers = tuple(range(hooked(model).sizes.n_layers))
    saliency, lens = SaliencyMap(layers, loss=objective(prompt)), LensTokens((prompt.target,), GUESSES)
    seen = run(model, [prompt], [saliency, lens], patches, progress=None)
    edges = seen[saliency].values[0].tril(-1)  # an edge of a token with itself carries nothing from elsewhere
    sums = edges.sum((1, 2))
    per_layer = sums.clamp_min(torch.finfo(sums.dtype).tiny)[:, None]
    anchors = torch.tensor([prompt.anchors] * len(layers)).reshape(len(layers), -1)
    raw = flow(edges, anchors, torch.full((len(layers),), prompt.target))
    drawn = [strongest(layer) for layer in edges]
    return {
        "probs": rounded(seen.label_probs[0]),
        "edges": [edge_list(layer, places) for layer, places in zip(edges, drawn, strict=True)],
        "shown": [
            rounded(layer[tuple(places.T)].sum() / total) if total else 1.0
            for layer, places, total in zip(edges, drawn, sums, strict=True)
        ],
        "total": [int((layer > 0).sum()) for layer in edges],
        "flow": [rounded(row / row.sum()) if row.sum() > 0 else None for row in raw],
        "into": rounded(edges.sum(2) / per_layer),
        "out": rounded(edges.sum(1) / per_layer),
        "guesses": guess_rows(model, seen[lens], 0),
    }


def heads(model: Any, prompt: Prompt, patches: list[Patch], layers: Sequence[int]) -> list[dict[str, Any]]:
    """What each head adds to the edges of these layers, signed: for each `edges` [query, key] and `values` [edge head].

    The saliency of a choice of heads is |their sum|. Edges are those that are strong for all heads together, and of
    each head alone an equal part of as many. As many layers share a pass as memory allows.
    """
    at_once = max(1, _KEPT // (hooked(model).sizes.n_heads * len(prompt) ** 2))
    answers = []
    for first in range(0, len(layers), at_once):
        probes = [HeadSaliency(layer, objective(prompt)) for layer in layers[first : first + at_once]]
        seen = run(model, [prompt], probes, patches, progress=None)
        answers += [_edges_of_heads(seen[probe].values[0].tril(-1)) for probe in probes]
    return answers


def _edges_of_heads(signed: Float[Tensor, "head query key"]) -> dict[str, Any]:
    each = -(-MOST // len(signed))
    places = torch.cat([strongest(signed.sum(0).abs()), *(strongest(head.abs(), each) for head in signed)])
    places = torch.unique(places, dim=0)
    return {"edges": places.tolist(), "values": rounded(signed[:, places[:, 0], places[:, 1]].T)}


def guesses(model: Any, prompt: Prompt, patches: list[Patch], positions: list[int]) -> list[list[list[Any]]]:
    """The lens's most probable next tokens at these positions, from the embedding to the last layer.

    Returns, for each position, L + 1 rows of [token, probability, token, probability, ...].
    """
    probe = LensTokens(tuple(positions), GUESSES)
    seen = run(model, [prompt], [probe], patches, progress=None)[probe]
    return [guess_rows(model, seen, i) for i in range(len(positions))]


def objective(prompt: Prompt) -> Objective:
    """The paper's loss where the true class is known, else that of the model's own prediction."""
    return Objective(target="predicted" if prompt.gold is None else "gold")


def strongest(edges: Float[Tensor, "query key"], most: int = MOST) -> Tensor:
    """Places [edge 2] of the strongest edges, strongest first: as many as make `SHARE` of the sum, at most `most`."""
    values, order = edges.flatten().sort(descending=True, stable=True)
    before = values.double().cumsum(0) - values
    n = min(most, int(((before < SHARE * values.double().sum()) & (values > 0)).sum()))
    return torch.stack([order[:n] // edges.shape[1], order[:n] % edges.shape[1]], 1)


def edge_list(edges: Float[Tensor, "query key"], places: Tensor) -> list[list[Any]]:
    values = rounded(edges[tuple(places.T)])
    return [[query, key, value] for (query, key), value in zip(places.tolist(), values, strict=True)]


def guess_rows(model: Any, reading: Reading, position: int) -> list[list[Any]]:
    """For each point, [token, probability, token, probability, ...] of the first prompt."""
    tokenizer = hooked(model).tokenizer
    points = zip(reading["token"][0, :, position], reading["probability"][0, :, position], strict=True)
    return [
        [part for token, probability in zip(*point, strict=True)
         for part in (token_text(tokenizer, int(token)), rounded(probability))]
        for point in points
    ]  # fmt: skip


def rounded(values: Tensor) -> Any:
    """Numbers as (nested) lists with four significant digits: what a picture can show, and short to send."""

    def shorten(value: Any) -> Any:
        return [shorten(one) for one in value] if isinstance(value, list) else float(f"{value:.4g}")

    return shorten(values.tolist())
