"""Probabilities of continuations, for the clean model and many ablations of it in one sweep.

Multiple-choice benchmarks need nothing else: sum log p(continuation | context), and whether greedy decoding gives the
continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.corpora import TokenBatch
from mechicl.engines.wavefront import residual_groups
from mechicl.errors import InputError, NumericalError
from mechicl.hooks import Patch
from mechicl.models import Blockwise, blockwise, frozen
from mechicl.models.tokenizers import check_tokenizer, encode_texts
from mechicl.progress import progress

_LOGITS = 2**24
"""Logits that are held at a time: 64 MiB in float32."""


class Continuations(NamedTuple):
    """Row 0 is the clean model, the others are the ablations in order."""

    log_prob: Float[Tensor, "lesion request"]
    """Sum over the continuation's tokens, in nats."""
    greedy: Bool[Tensor, "lesion request"]
    """Whether every token of the continuation is the most probable one."""


def continuations(
    model: Any, requests: Sequence[tuple[str, str]], lesions: Sequence[Patch] = (), *, prepend_bos: bool,
    batch_size: int = 16,
) -> Continuations:  # fmt: skip
    """Score (context, continuation) requests: log-probabilities are summed over the continuation's tokens.

    Both are encoded together and split where the context's own encoding ends, as lm-evaluation-harness does; spaces at
    a context's end belong to the continuation. An empty context becomes a BOS.

    Raises:
        InputError: there are no requests, a continuation is empty, a request exceeds the context, or a layer is
            missing.
        NumericalError: a log-probability is NaN or infinite; the message names request and ablation.
    """
    if not requests:
        raise InputError("There is nothing to continue; give at least one context and continuation.")
    net = blockwise(model, "continuations")
    encoded = [_encode(net, context, continuation, prepend_bos) for context, continuation in requests]
    order = sorted(range(len(requests)), key=lambda i: -len(encoded[i][0]))
    log_prob = torch.empty(1 + len(lesions), len(requests))
    greedy = torch.empty(1 + len(lesions), len(requests), dtype=torch.bool)
    with frozen(net), torch.no_grad(), progress("requests", len(requests)) as advance:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            log_prob[:, rows], greedy[:, rows] = _batch(net, [encoded[i] for i in rows], lesions)
            _refuse_non_finite(log_prob[:, rows], [requests[i] for i in rows], lesions)
            advance(len(rows))
    return Continuations(log_prob, greedy)


def _refuse_non_finite(
    log_prob: Float[Tensor, "lesion request"], requests: Sequence[tuple[str, str]], lesions: Sequence[Patch]
) -> None:
    bad = ~log_prob.isfinite()
    if bad.any():
        lesion, request = bad.nonzero()[0].tolist()
        context, continuation = requests[request]
        who = "the clean model" if lesion == 0 else f"the model under {lesions[lesion - 1]}"
        raise NumericalError(
            f"The log-probability of {continuation[:40]!r} after {context[-40:]!r} is "
            f"{log_prob[lesion, request].item()} in {who}: activations overflow there or the weights are not finite; "
            "try dtype='float32' or 'bfloat16'."
        )


def _encode(net: Blockwise, context: str, continuation: str, prepend_bos: bool) -> tuple[list[int], int]:
    """Token ids, and the number of them that belong to the continuation."""
    tokenizer = net.tokenizer
    check_tokenizer(tokenizer)
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before, ids = encode_texts(tokenizer, [context, context + continuation])["input_ids"]
    before = before if context else []  # some tokenizers turn an empty text into a space
    n = len(ids) - len(before)
    if n < 1:
        raise InputError(f"The continuation {continuation!r} has no token of its own.")
    if prepend_bos or not before:
        if bos is None:
            needs = "prepend_bos=True" if before else "an empty context"
            raise InputError(f"This tokenizer has no BOS token and no end-of-text token, and {needs} needs one.")
        ids = [bos, *ids]
    if len(ids) > net.sizes.n_ctx:
        raise InputError(
            f"A context with its continuation takes {len(ids)} tokens; the context of {net.name} is {net.sizes.n_ctx}, "
            f"and nothing is cut."
        )
    return ids, n


def _batch(net: Blockwise, encoded: Sequence[tuple[list[int], int]], lesions: Sequence[Patch]) -> Continuations:
    tokens = torch.zeros(len(encoded), max(len(ids) for ids, _ in encoded), dtype=torch.long)
    predicts = torch.zeros(tokens.shape, dtype=torch.bool)  # positions that predict a token of the continuation
    for row, (ids, n) in enumerate(encoded):
        tokens[row, : len(ids)] = torch.tensor(ids)
        predicts[row, len(ids) - 1 - n : len(ids) - 1] = True
    rows, positions = (index.to(net.device) for index in predicts.nonzero(as_tuple=True))
    targets = tokens.to(net.device)[rows, positions + 1]
    lengths = torch.tensor([len(ids) for ids, _ in encoded])
    batch = TokenBatch(tokens, lengths).to(net.device)
    sums: list[tuple[Tensor, Tensor]] = []
    for finals in residual_groups(net, batch, lesions):
        for final in finals[bool(sums) :]:  # the clean model is used only once
            sums.append(_read(net, final[rows, positions], targets, rows, len(encoded)))
    return Continuations(*(torch.stack(column).cpu() for column in zip(*sums, strict=True)))


def _read(net: Blockwise, final: Tensor, targets: Tensor, row: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    rows, parts = max(1, _LOGITS // net.sizes.d_vocab), []
    for some, wanted in zip(torch.split(final, rows), torch.split(targets, rows), strict=True):
        log_p = net.lens(some).log_softmax(-1)
        missed = (log_p.argmax(-1) != wanted).float()
        parts.append(torch.stack([log_p.gather(-1, wanted[:, None])[:, 0], missed], -1))
    # On CUDA index_put_ adds in a fixed order, which index_add_ does not promise.
    found = torch.cat(parts)
    sums = found.new_zeros(n_rows, 2).index_put_((row,), found, accumulate=True)
    return sums[:, 0], sums[:, 1] == 0
