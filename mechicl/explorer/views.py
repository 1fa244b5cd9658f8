"""The explorer's contents as plain values: the strongest edges, the prediction, and the lens's guesses.

All edges are measured, but only some are sent: per layer the strongest that make up `SHARE` of the sum, at most `MOST`,
together with their actual share. Sums over edges (S_wp, S_pq, S_ww, flow into and out of a token, enrichment) include
all edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.hooks import Patch, Probe, Run, run
from mechicl.metrics import top_k_ids
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.models.tokenizers import has_token, token_text
from mechicl.probes import AttentionMap, Enrichment, HeadEnrichment, HeadSaliency, LensTokens, SaliencyMap
from mechicl.probes.enrichment import enrichment
from mechicl.probes.saliency import flow
from mechicl.prompts import Prompt
from mechicl.readings import Reading

SHARE, MOST = 0.95, 120
GUESSES = 3
HEADS = 4
"""Number of heads, of those with the largest saliency from label words, whose ablation a page keeps."""
_KEPT = 2**26
"""Most saliency values of heads that a pass may keep: 256 MiB."""


def view(model: Any, prompt: Prompt, patches: list[Patch]) -> dict[str, Any]:
    """One pass with these patches: label probabilities, every layer's flow, and the lens at q.

    `saliency` and `attention` are the drawn edges, see `_edges`; attention is the mean over heads, without attention to
    position 0 (`sink`, the mean over queries by layer). `flow` is each layer's share of S_wp, S_pq and S_ww. `into` and
    `out` [layer token] are shares of the layer's saliency, `reading` and `gathering` [layer token] the enrichment of
    each token, and `enriched` [layer] that of label words and of random text, in the order reading, reading, gathering,
    gathering. `flow` and `enriched` are None without label words. `heads` [layer head] is each head's reading of label
    words, and `most` lists the heads with the largest saliency from them.
    """
    return at_once(model, prompt, patches)[0]


def heads(model: Any, prompt: Prompt, patches: list[Patch], layers: Sequence[int]) -> list[dict[str, Any]]:
    """Each head's signed contribution to the edges of these layers: `edges` [query, key], `values` [edge head].

    The saliency of a set of heads is |their sum|. The edges are those that are strong for all heads together, and the
    same number again divided equally among single heads. As many layers share a pass as memory allows.
    """
    answers = []
    for some in _together(model, prompt, layers):
        probes = [HeadSaliency(layer, objective(prompt)) for layer in some]
        seen = run(model, [prompt], probes, patches, progress=None)
        answers += [_edges_of_heads(seen[probe].values[0].tril(-1)) for probe in probes]
    return answers


def at_once(
    model: Any, prompt: Prompt, patches: list[Patch], layers: Sequence[int] = (), positions: Sequence[int] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]], list[list[list[Any]]]]:
    """`view`, `heads` and `guesses`, in one forward and one backward pass if memory allows."""
    loss, every = objective(prompt), tuple(range(hooked(model).sizes.n_layers))
    first, *later = _together(model, prompt, layers) or [()]
    of_heads = [HeadSaliency(layer, loss) for layer in first]
    probes: dict[str, Probe] = {
        "saliency": SaliencyMap(every, loss=loss),
        "attention": AttentionMap(every),
        "lens": LensTokens((prompt.target, *positions), GUESSES),
    }
    if prompt.anchors:
        probes |= {
            "enrichment": Enrichment(loss=loss), "heads": HeadEnrichment(loss=loss),
            "most": HeadEnrichment(loss=loss, absolute=True),
        }  # fmt: skip
    seen = run(model, [prompt], [*probes.values(), *of_heads], patches, progress=None)
    rest = heads(model, prompt, patches, [layer for some in later for layer in some])
    readings = {name: seen[probe] for name, probe in probes.items()}
    at_q, *elsewhere = (guess_rows(model, readings["lens"], place) for place in range(1 + len(positions)))
    shown = _shown(prompt, readings, seen) | {"guesses": at_q}
    return shown, [_edges_of_heads(seen[probe].values[0].tril(-1)) for probe in of_heads] + rest, elsewhere


def _together(model: Any, prompt: Prompt, layers: Sequence[int]) -> list[Sequence[int]]:
    """The layers in groups whose heads' saliency one pass may keep."""
    size = max(1, _KEPT // (hooked(model).sizes.n_heads * len(prompt) ** 2))
    return [layers[first : first + size] for first in range(0, len(layers), size)]


def _shown(prompt: Prompt, readings: dict[str, Reading], seen: Run) -> dict[str, Any]:
    edges = readings["saliency"].values[0].tril(-1)  # an edge from a token to itself moves nothing from elsewhere
    attention = readings["attention"].values[0]
    sink = attention[:, 1:, 0].mean(1) if len(prompt) > 1 else attention[:, 0, 0]
    per_layer = edges.sum((1, 2)).clamp_min(torch.finfo(edges.dtype).tiny)[:, None]
    every = torch.arange(len(prompt)).expand(len(edges), -1)[..., None]
    target = torch.full((len(edges),), prompt.target)
    start = torch.full_like(target, prompt.query_start or prompt.target)
    of_tokens = enrichment(edges, every, target, start)
    return {
        "probs": rounded(seen.label_probs[0]),
        "saliency": _edges(edges),
        "attention": _edges(attention.tril(-1).index_fill(2, torch.tensor([0]), 0.0)) | {"sink": rounded(sink)},
        "flow": _flow(prompt, edges),
        "into": rounded(edges.sum(2) / per_layer),
        "out": rounded(edges.sum(1) / per_layer),
        "reading": rounded(of_tokens[..., 0], 3),
        "gathering": rounded(of_tokens[..., 1], 3),
        "enriched": _enriched(readings.get("enrichment")),
        "heads": rounded(readings["heads"]["reading"][0]) if "heads" in readings else None,
        "most": _most(readings["most"]["reading"][0]) if "most" in readings else [],
    }


def _most(reading: Float[Tensor, "layer head"]) -> list[list[int]]:
    """The heads with the largest saliency from label words to the target, as [layer, head], first the largest."""
    order = reading.flatten().argsort(descending=True)[:HEADS].tolist()
    return [list(divmod(place, reading.shape[1])) for place in order]


def _edges(edges: Float[Tensor, "layer query key"]) -> dict[str, Any]:
    """`edges` are [query, key, value] by layer, strongest first; `shown` is their share of the layer's sum, and `total`
    the number of edges in it.
    """
    drawn = [strongest(layer) for layer in edges]
    return {
        "edges": [edge_list(layer, places) for layer, places in zip(edges, drawn, strict=True)],
        "shown": [
            rounded(layer[tuple(places.T)].sum() / layer.sum()) if len(places) else 1.0
            for layer, places in zip(edges, drawn, strict=True)
        ],
        "total": [int((layer > 0).sum()) for layer in edges],
    }


def _flow(prompt: Prompt, edges: Float[Tensor, "layer query key"]) -> list[Any] | None:
    if not prompt.anchors:
        return None
    anchors = torch.tensor([prompt.anchors] * len(edges))
    raw = flow(edges, anchors, torch.full((len(edges),), prompt.target))
    return [rounded(row / row.sum()) if row.sum() > 0 else [0, 0, 0] for row in raw]


def _enriched(reading: Reading | None) -> list[list[float]] | None:
    if reading is None:
        return None
    sets = [reading.along("set").index(name) for name in ("label words", "random text")]
    columns = [reading[what][0, :, of_set] for what in ("reading", "gathering") for of_set in sets]
    shown: list[list[float]] = rounded(torch.stack(columns, 1))
    return shown


def _edges_of_heads(signed: Float[Tensor, "head query key"]) -> dict[str, Any]:
    each = -(-MOST // len(signed))
    places = torch.cat([strongest(signed.sum(0).abs()), *(strongest(head.abs(), each) for head in signed)])
    places = torch.unique(places, dim=0)
    return {"edges": places.tolist(), "values": rounded(signed[:, places[:, 0], places[:, 1]].T)}


def guesses(model: Any, prompt: Prompt, patches: list[Patch], positions: Sequence[int]) -> list[list[list[Any]]]:
    """The lens's most probable next tokens at these positions, from the embedding to the last layer.

    Returns, for each position, L + 1 rows of [token, probability, token, probability, ...].
    """
    probe = LensTokens(tuple(positions), GUESSES)
    seen = run(model, [prompt], [probe], patches, progress=None)[probe]
    return [guess_rows(model, seen, i) for i in range(len(positions))]


def objective(prompt: Prompt) -> Objective:
    """The paper's loss if the true class is known, otherwise that of the model's own prediction."""
    return Objective(target="predicted" if prompt.gold is None else "gold")


def strongest(edges: Float[Tensor, "query key"], most: int = MOST) -> Tensor:
    """Places [edge 2] of the strongest edges, strongest first, up to `SHARE` of the sum and at most `most`."""
    flat = edges.flatten()
    order = top_k_ids(flat, min(most, len(flat)))
    values = flat[order].double()
    before = values.cumsum(0) - values
    order = order[(before < SHARE * flat.double().sum()) & (values > 0)]
    return torch.stack([order // edges.shape[1], order % edges.shape[1]], 1)


def edge_list(edges: Float[Tensor, "query key"], places: Tensor) -> list[list[Any]]:
    values = rounded(edges[tuple(places.T)])
    return [[query, key, value] for (query, key), value in zip(places.tolist(), values, strict=True)]


def guess_rows(model: Any, reading: Reading, position: int) -> list[list[Any]]:
    """For each point, [token, probability, token, probability, ...] of the first prompt.

    An id that is not a token remains a number.
    """
    tokenizer = hooked(model).tokenizer

    def named(token: int) -> str | int:
        return token_text(tokenizer, token) if has_token(tokenizer, token) else token

    points = zip(reading["token"][0, :, position], reading["probability"][0, :, position], strict=True)
    return [
        [part for token, probability in zip(*point, strict=True) for part in (named(int(token)), rounded(probability))]
        for point in points
    ]


def rounded(values: Tensor, digits: int = 4) -> Any:
    """Numbers as (nested) lists with few significant digits: enough for a picture, and short to send."""

    def shorten(value: Any) -> Any:
        return [shorten(one) for one in value] if isinstance(value, list) else float(f"{value:.{digits}g}")

    return shorten(values.tolist())
