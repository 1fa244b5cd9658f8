"""The whole atlas: a pass for each measurement, against one pass and one sweep for all, in turns, with equal results.

    python benchmarks/atlas.py [--tokens 512 --length 256] [--size gpt2-xl --device cuda]

The authors' way is a script for each measurement, so each makes its own pass over every text, keeps everything that
passes by (`run_with_cache`) and reduces it afterwards: lens, local attention, MLP norms, block influence. Dropped
layers are those of `lesions.py`, with their bookkeeping, and neurons those of `neurons.py`.

Ours is what `mechicl run stages-atlas` measures. Neurons cost the same however long the text is; so both shares are
shown next to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from lesions import Authors
from measuring import Clock, Rate, arguments, interleaved, machine, random_model, random_texts, row
from neurons import authors_way as authors_moments
from torch import Tensor
from transformer_lens import HookedTransformer

from mechicl.corpora import TokenCorpus
from mechicl.studies.stages.atlas import Atlas

WINDOW = 5


def main() -> None:
    asked = arguments(__doc__, tokens=512, length=256).parse_args()
    asked.dtype = "float32"  # half precision differs in the order of sums: there is nothing to assert
    model, texts, clock = random_model(asked), random_texts(asked), Clock(asked.device)
    rate = Rate(model, clock)
    study = Atlas(untrained=0)
    (given,) = study.conditions(model)
    model.cfg.model_name = "random"
    corpus = as_corpus(texts)
    study.measure(model, as_corpus(texts[:, :16]), given, batch_size=4)  # warm up
    found: dict[str, Tensor] = {}
    for turn in interleaved(authors_way(model, texts, clock, found), 2 * model.cfg.n_layers + 4):
        if turn % (2 * model.cfg.n_layers // max(1, asked.repeats - 1)) == 0:
            rate.measure()
            table = clock.time("ours, text", lambda: study.measure(model, corpus, given, batch_size=4))
            neurons = clock.time("ours, neurons", lambda: study.measure(model, None, given, batch_size=4))
    assert_equal(pd.concat([table, neurons]), found)
    print(machine(model, rate))
    print(f"{texts.numel()} tokens in texts of {texts.shape[1]}; results equal")
    report(clock)


def report(clock: Clock) -> None:
    passes = [name for name in clock.seconds if name.startswith("authors'")]
    weights, text = clock.total("authors"), clock.total(*passes)
    ours_text, ours_weights = clock.median("ours, text"), clock.median("ours, neurons")
    row("atlas", "separate passes, s", "ours, s", "ratio")
    row("---", "---", "---", "---")
    for name in passes:
        row(name.removeprefix("authors' "), f"{clock.total(name):.1f}", "", "")
    for name, theirs, ours in (
        ("all that is measured on text", text, ours_text),
        ("neurons, from weights", weights, ours_weights),
        ("whole", text + weights, ours_text + ours_weights),
    ):
        row(name, f"{theirs:.1f}", f"{ours:.1f}", f"{theirs / ours:.1f}")


def as_corpus(texts: Tensor) -> TokenCorpus:
    lengths = torch.full((len(texts),), texts.shape[1])
    documents = torch.arange(len(texts))[:, None].expand(texts.shape)
    return TokenCorpus(texts, lengths, documents, torch.full_like(documents, -1), None, True)


def authors_way(model: HookedTransformer, texts: Tensor, clock: Clock, found: dict[str, Tensor]) -> Iterator[None]:
    """One step a measurement, or a layer of it; `found` gets means by layer."""
    single: dict[str, Callable[[HookedTransformer, Tensor], dict[str, Tensor]]] = {
        "lens": _lens, "local attention": _local_attention, "MLP norm": _norms, "block influence": _influence,
    }  # fmt: skip
    for name, measure in single.items():
        per_text = clock.time(f"authors' {name}", lambda m=measure: [m(model, text) for text in texts[:, None]])
        found |= {key: torch.stack([one[key] for one in per_text]).mean(0) for key in per_text[0]}
        yield
    authors = Authors(model, clock)
    yield from authors.drop(texts)
    kl = torch.tensor(authors.rows["drop"]["kl"]).view(model.cfg.n_layers, len(texts), -1)
    found["drop KL"] = kl[..., 1:].mean((1, 2))
    moments: list[Tensor] = []
    yield from authors_moments(model, clock, moments)
    heavy = torch.stack([one[3] > 10 for one in moments])
    sign = torch.stack([one[2].sign() for one in moments])
    for name, which in (("prediction", 1), ("suppression", -1)):
        found[f"{name} neurons"] = (heavy & (sign == which)).float().mean(1)


@torch.no_grad()
def _lens(model: HookedTransformer, text: Tensor) -> dict[str, Tensor]:
    """All logits of all points at a time, as their notebook has them."""
    _, cache = model.run_with_cache(text)
    n_layers = model.cfg.n_layers
    names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n_layers)), f"blocks.{n_layers - 1}.hook_resid_post"]
    points = torch.cat([cache[name] for name in names])[:, 1:]
    log_q = model.unembed(model.ln_final(points)).log_softmax(-1)
    entropy = -(log_q.exp() * log_q).sum(-1) / math.log(2)
    kl = (log_q[-1].exp() * (log_q[-1] - log_q)).sum(-1)
    return {"lens entropy": entropy.mean(-1).cpu(), "lens KL": kl.mean(-1).cpu()}


@torch.no_grad()
def _local_attention(model: HookedTransformer, text: Tensor) -> dict[str, Tensor]:
    """Diagonal by diagonal and head by head, from patterns of all layers."""
    _, cache = model.run_with_cache(text)
    layers = []
    for layer in range(model.cfg.n_layers):
        heads = cache["pattern", layer][0]
        masses = [
            sum(torch.diagonal(head, -offset)[WINDOW + 1 - offset :] for offset in range(1, WINDOW + 1))
            for head in heads
        ]
        layers.append(torch.stack(masses).mean())  # type: ignore[arg-type]
    return {"local attention": torch.stack(layers).cpu()}


@torch.no_grad()
def _norms(model: HookedTransformer, text: Tensor) -> dict[str, Tensor]:
    _, cache = model.run_with_cache(text)
    outputs = torch.stack([cache["mlp_out", layer][0, 1:] for layer in range(model.cfg.n_layers)])
    return {"MLP norm": outputs.norm(dim=-1).mean(-1).cpu()}


@torch.no_grad()
def _influence(model: HookedTransformer, text: Tensor) -> dict[str, Tensor]:
    _, cache = model.run_with_cache(text)
    before, after = (
        torch.stack([cache[name, layer][0, 1:] for layer in range(model.cfg.n_layers)])
        for name in ("resid_pre", "resid_post")
    )
    return {"block influence": 1 - torch.cosine_similarity(before, after, dim=-1).mean(-1).cpu()}


def assert_equal(table: pd.DataFrame, found: dict[str, Tensor]) -> None:
    """Every signature's mean by layer."""
    means = table.groupby(["signature", "layer"])["value"].mean()
    assert set(found) == set(table["signature"])
    for signature, expected in found.items():
        own = torch.tensor(means[signature].to_numpy()).float()
        torch.testing.assert_close(own, expected.float(), atol=2e-5, rtol=1e-4)


if __name__ == "__main__":
    main()
