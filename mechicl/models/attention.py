"""Attention at explicit positions on top of cached keys and values.

`attend` is TransformerLens's `AbstractAttention.forward` with two differences: positions are given, and cached keys are
already rotated. It projects with the weights in place; TransformerLens's projections copy them at every call. Two of
its steps have two implementations of the same result, each measured in `benchmarks/attention.py`: `fused` and
`in_parts`, and `per_head` and `all_heads`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechicl.models.blockwise import KeyValues, join_positions
from mechicl.models.rotary import rotate, rotation
from mechicl.models.silent import has_hooks, normalise, soft_cap


def attend(
    block: Any,
    resid: Float[Tensor, "batch pos d_model"],
    positions: Int[Tensor, "*batch pos"],
    past: KeyValues | None,
    *,
    heard: bool,
) -> tuple[Float[Tensor, "batch pos d_model"], KeyValues]:
    """A block's attention with the hook points that TransformerLens fires: its output, and the new keys and values.

    `heard` says whether a hook is installed anywhere in it; without one, inputs and results by head, which a user may
    have switched on, are not computed.
    """
    attn, cfg = block.attn, block.cfg
    q, k, v = (_clip(x, cfg.clip_qkv) for x in _queries_keys_values(block, resid, heard))
    if (angles := rotation(attn, positions)) is not None:
        q = attn.hook_rot_q(rotate(q, angles, adjacent=cfg.rotary_adjacent_pairs))
        k = attn.hook_rot_k(rotate(k, angles, adjacent=cfg.rotary_adjacent_pairs))
    new = KeyValues(k, v, positions)
    scoring = Scoring.of(attn)
    z = attn.hook_z((in_parts if scoring.needs_parts(new, past) else fused)(scoring, q, new, past))
    if heard and cfg.use_attn_result:
        out = attn.hook_result(torch.einsum("bphd,hdm->bphm", z, attn.W_O)).sum(2) + attn.b_O
    else:
        out = _project_out(attn, z)
    if cfg.use_normalization_before_and_after:
        out = block.ln1_post(out) if has_hooks(block.ln1_post) else normalise(block.ln1_post, out)
    return out, new


def _queries_keys_values(block: Any, resid: Tensor, heard: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values before rotation; their hook points, and those of the norms, fire."""
    attn, cfg = block.attn, block.cfg
    if heard and (cfg.use_split_qkv_input or cfg.use_attn_in or cfg.ungroup_grouped_query_attention):
        split: tuple[Tensor, Tensor, Tensor] = attn.calculate_qkv_matrices(
            *(block.ln1(x) for x in _split_inputs(block, resid))
        )
        return split
    # TransformerLens computes the norm three times, so its hooks fire three times.
    inputs = [block.ln1(resid) for _ in range(3)] if has_hooks(block.ln1) else [normalise(block.ln1, resid)] * 3
    q, k, v = (
        point(_project(x, *weights))
        for point, x, weights in zip((attn.hook_q, attn.hook_k, attn.hook_v), inputs, _weights(attn), strict=True)
    )
    return _norm_heads(attn, attn.q_norm, q), _norm_heads(attn, attn.k_norm, k), v


def _norm_heads(attn: Any, norm: Any, x: Tensor) -> Tensor:
    if norm is None or not has_hooks(norm):
        return normalise(norm, x)
    heard: Tensor = attn._apply_qk_norm(x, norm)
    return heard


@dataclass(frozen=True)
class Scoring:
    """How attention computes a pattern from queries and keys, and the hooks on the way."""

    scale: float
    """What scores are divided by."""
    cap: float | None
    within: int | None
    """Number of positions that this layer sees, including the current one; None without limit."""
    on_scores: Any
    """The hook points; None if no hook may fire."""
    on_pattern: Any
    sinks: Float[Tensor, " head"] | None = None
    """Scores of one additional key per head, which takes part in the softmax but has no value (GPT-OSS)."""

    @classmethod
    def of(cls, attn: Any) -> Scoring:
        """The scoring of a HookedTransformer's attention."""
        cfg, local = attn.cfg, attn.attn_type == "local"
        within = int(cfg.window_size) if local else None
        return cls(attn.attn_scale, cfg.attn_scores_soft_cap, within, attn.hook_attn_scores, attn.hook_pattern)

    @property
    def edited(self) -> bool:
        """Whether a hook is installed on the scores."""
        return self.on_scores is not None and has_hooks(self.on_scores)

    def needs_parts(self, new: KeyValues, past: KeyValues | None) -> bool:
        """Whether hooks need scores or pattern, or the kernel does not support this attention: sinks, soft-capped
        scores, or a past that a batch shares.
        """
        capped = self.cap is not None and self.cap > 0
        unknown = capped or self.sinks is not None or (past is not None and past.batch < new.batch)
        return unknown or self.edited or (self.on_pattern is not None and has_hooks(self.on_pattern))


def visible(
    positions: Int[Tensor, "*batch pos"], past: KeyValues | None, within: int | None
) -> Bool[Tensor, "*batch_head query key"]:
    """Which keys each query sees: past ones, new ones causally, none beyond the window (counted in
    positions).
    """
    n, m = positions.shape[-1], 0 if past is None else len(past)
    mask = torch.ones(n, m + n, dtype=torch.bool, device=positions.device).tril(m)
    if within is None:
        return mask
    keys = positions if past is None else join_positions(past.positions.to(positions.device), positions)
    mask = mask & (positions[..., :, None] - keys[..., None, :] < within)
    return mask if mask.ndim == 2 else mask[:, None]


def _split_inputs(block: Any, resid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs of queries, keys and values, split by head if the user requested that (`set_use_...`)."""
    cfg = block.cfg
    heads = cfg.n_heads
    grouped = heads if cfg.ungroup_grouped_query_attention else cfg.n_key_value_heads or heads

    def by_head(n: int) -> Tensor:
        return resid[:, :, None].expand(-1, -1, n, -1).clone()

    if cfg.use_split_qkv_input:
        q, k, v = block.hook_q_input, block.hook_k_input, block.hook_v_input
        return q(by_head(heads)), k(by_head(grouped)), v(by_head(grouped))
    x = block.hook_attn_in(by_head(heads)) if cfg.use_attn_in else resid
    return x, x, x


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def _project(
    x: Float[Tensor, "batch pos d_model"],
    weight: Float[Tensor, "head d_model d_head"],
    bias: Float[Tensor, "head d_head"],
) -> Float[Tensor, "batch pos head d_head"]:
    """All heads' projections, from TransformerLens's weights in place.

    Nothing is cached between calls, so edited weights take effect immediately.
    """
    few = x.shape[0] * x.shape[1] < rows_worth_a_copy(x.device)
    return per_head(x, weight, bias) if few else all_heads(x, weight, bias)


def rows_worth_a_copy(device: torch.device) -> int:
    """The number of rows from which one product with a transposed copy of the weights beats one product per head.

    A GPU (not measured yet; see `benchmarks/gpu.py choices`) multiplies the heads as a batch in the same tiles as one
    product of all heads, until there are enough rows for tiles wider than a head.
    """
    return 256 if device.type == "cpu" else 512


def per_head(x: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "batch pos head d_head"]:
    """`_project` as one product per head, which reads the weights once, in place."""
    (batch, pos, d_model), (heads, _, d_head) = x.shape, weight.shape
    out = torch.baddbmm(bias[:, None], x.reshape(batch * pos, d_model).expand(heads, -1, -1), weight)
    return out.view(heads, batch, pos, d_head).permute(1, 2, 0, 3)


def all_heads(x: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "batch pos head d_head"]:
    """`_project` as one product with a transposed copy of the weights."""
    (batch, pos, d_model), (heads, _, d_head) = x.shape, weight.shape
    flat = weight.transpose(1, 2).reshape(heads * d_head, d_model)
    return F.linear(x.reshape(batch * pos, d_model), flat, bias.reshape(-1)).view(batch, pos, heads, d_head)


def _weights(attn: Any) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of queries, keys and values; keys and values that heads share appear once, as stored."""
    shared = "_" if attn.cfg.n_key_value_heads is not None else ""
    kv = [(getattr(attn, f"{shared}W_{m}"), getattr(attn, f"{shared}b_{m}")) for m in "KV"]
    return [(attn.W_Q, attn.b_Q), *kv]


def _project_out(attn: Any, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
    W_O = attn.W_O.flatten(0, 1)  # [head * d_head, d_model], a view
    return F.linear(z.flatten(2).to(W_O.dtype), W_O.T, attn.b_O)


def fused(
    scoring: Scoring, q: Float[Tensor, "batch pos head d_head"], new: KeyValues, past: KeyValues | None
) -> Float[Tensor, "batch pos head d_head"]:
    """Attention in one kernel; a mask is built only if causality alone does not define it."""
    seen = new if past is None else past.then(new)
    within, queries = scoring.within, q.shape[1]
    is_causal = past is None and within is None and queries > 1
    needs_mask = not is_causal and (queries > 1 or within is not None)
    mask = visible(new.positions, past, within) if needs_mask else None
    keys, values = seen.keys, seen.values
    if q.shape[2] != keys.shape[2] and repeats_keys(q.device, q.dtype, mask is not None):
        keys, values = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (keys, values))
    q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))
    shared = q.shape[1] != keys.shape[1]
    z = F.scaled_dot_product_attention(
        q, keys, values, mask, is_causal=is_causal, scale=1 / scoring.scale, enable_gqa=shared
    )
    return z.transpose(1, 2)


def repeats_keys(device: torch.device, dtype: torch.dtype, masked: bool) -> bool:
    """Whether to repeat shared keys before `scaled_dot_product_attention`.

    On CUDA only the flash kernel supports shared keys, and it supports neither float32 nor masks: everything else would
    fall back to the kernel that writes all scores to memory. Repeated keys use the memory-efficient one. This follows
    from what PyTorch's kernels support; `benchmarks/gpu.py choices` measures both.
    """
    return device.type == "cuda" and (masked or dtype not in (torch.float16, torch.bfloat16))


def in_parts(
    scoring: Scoring, q: Float[Tensor, "batch pos head d_head"], new: KeyValues, past: KeyValues | None
) -> Float[Tensor, "batch pos head d_head"]:
    """Scores of past and new keys are computed separately and combined in one softmax; hook points of both fire.

    A past that a whole batch shares is then read once, in place, instead of being copied for every prompt. This also
    serves soft-capped scores, which the fused kernel does not support.
    """
    batch, queries, heads, d_head = q.shape
    groups = new.keys.shape[2]
    # Query heads of one group are extra rows of its keys: [batch, group, heads per group * query, d_head].
    rows = q.reshape(batch, queries, groups, -1, d_head).permute(0, 2, 3, 1, 4).flatten(2, 3) / scoring.scale
    parts = [new] if past is None else [past, new]
    products = [_products(rows, part.keys.permute(0, 2, 3, 1)) for part in parts]
    scores = torch.cat(products, -1) if past else products[-1]
    scores = soft_cap(scores, scoring.cap).view(batch, heads, queries, -1)
    if queries > 1 or scoring.within is not None:
        scores = scores.masked_fill(~visible(new.positions, past, scoring.within), -torch.inf)
    pattern = _pattern(scoring, scores).to(new.values.dtype).reshape(batch, groups, -1, scores.shape[-1])
    shares = torch.split(pattern, [len(part) for part in parts], -1)
    z = sum(_products(share, part.values.transpose(1, 2)) for share, part in zip(shares, parts, strict=True))
    assert isinstance(z, Tensor)
    return z.reshape(batch, heads, queries, d_head).transpose(1, 2)


def _pattern(scoring: Scoring, scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """The softmax of scores, with the hook points before and after it."""
    if scoring.on_scores is not None:
        scores = scoring.on_scores(scores)
    if scoring.sinks is None:
        pattern = scores.softmax(-1)
    else:
        sink = scoring.sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        pattern = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    if scoring.edited:
        # As in TransformerLens, a row that hooks have masked completely attends to nothing instead of being nan.
        pattern = torch.where(pattern.isnan(), torch.zeros_like(pattern), pattern)
    return pattern if scoring.on_pattern is None else scoring.on_pattern(pattern)


def _products(
    rows: Float[Tensor, "batch group row inner"], with_each: Float[Tensor, "one_or_batch group inner column"]
) -> Float[Tensor, "batch group row column"]:
    """Products of queries with keys, or of a pattern with values; the second is per prompt or shared by the batch."""
    if with_each.shape[0] == rows.shape[0]:
        return rows @ with_each
    batch, groups, per_prompt, _ = rows.shape
    shared = rows.transpose(0, 1).flatten(1, 2) @ with_each[0]  # the batch becomes rows
    return shared.view(groups, batch, per_prompt, -1).transpose(0, 1)
