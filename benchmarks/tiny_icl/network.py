"""The network of tiny-icl in plain PyTorch, for training.

A hooked model runs every activation through a hook point and forms attention patterns explicitly.
Training needs neither, so it uses this module, with fused attention; `mechicl.shipped.model.to_hooked` then copies
the weights into a `HookedTransformer` whose logits are the same up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mechicl.shipped.model import read_weights


@dataclass(frozen=True)
class Sizes:
    """The sizes of the network; everything that `config.json` needs to rebuild it."""

    d_vocab: int
    n_layers: int = 6
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 512
    n_ctx: int = 512
    rotary_base: int = 10_000
    eps: float = 1e-5

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rotary_tables(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each `n_ctx d_head`; a head's halves rotate together."""
    half = sizes.d_head // 2
    frequency = sizes.rotary_base ** (torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(sizes.n_ctx, dtype=torch.float32)[:, None] / frequency[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys, `batch head pos d_head`, by their position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a GELU MLP, each added to the residual stream."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.n_heads = sizes.n_heads
        self.ln1 = nn.LayerNorm(sizes.d_model, eps=sizes.eps)
        self.qkv = nn.Linear(sizes.d_model, 3 * sizes.d_model)
        self.out = nn.Linear(sizes.d_model, sizes.d_model)
        self.ln2 = nn.LayerNorm(sizes.d_model, eps=sizes.eps)
        self.mlp_in = nn.Linear(sizes.d_model, sizes.d_mlp)
        self.mlp_out = nn.Linear(sizes.d_mlp, sizes.d_model)

    def forward(self, resid: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, pos, d_model = resid.shape
        qkv = self.qkv(self.ln1(resid)).view(batch, pos, 3, self.n_heads, d_model // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        z = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        resid = resid + self.out(z.transpose(1, 2).reshape(batch, pos, d_model))
        resid = resid + self.mlp_out(F.gelu(self.mlp_in(self.ln2(resid))))
        return resid


class Network(nn.Module):
    """Tokens `batch pos` to logits `batch pos d_vocab`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed = nn.Embedding(sizes.d_vocab, sizes.d_model)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.n_layers))
        self.ln_final = nn.LayerNorm(sizes.d_model, eps=sizes.eps)
        self.unembed = nn.Linear(sizes.d_model, sizes.d_vocab)
        cos, sin = rotary_tables(sizes)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights of width 1/sqrt(fan in), smaller where a block writes to the stream; zero biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                width = 0.5 if name.startswith("embed") else parameter.shape[1] ** -0.5
                if name.endswith(("out.weight", "mlp_out.weight")):
                    width /= (2 * self.sizes.n_layers) ** 0.5
                nn.init.normal_(parameter, std=width, generator=generator)

    def forward(self, tokens: Tensor, skipped: Collection[int] = ()) -> Tensor:
        """Logits; the blocks named in `skipped` are left out."""
        resid = self.embed(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for index, block in enumerate(self.blocks):
            if index not in skipped:
                resid = block(resid, cos, sin)
        logits: Tensor = self.unembed(self.ln_final(resid))
        return logits


def load_network() -> Network:
    """The shipped model as a plain PyTorch module, in float32 on the CPU."""
    sizes, weights = read_weights()
    network = Network(Sizes(**sizes))
    network.load_state_dict(weights)
    return network.eval()
