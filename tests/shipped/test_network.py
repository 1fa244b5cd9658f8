"""The network: the same function as a HookedTransformer."""

from __future__ import annotations

import torch

from benchmarks.tiny_icl.network import Network, Sizes
from mechicl.shipped.model import to_hooked


def test_hooked_logits_are_the_same() -> None:
    network = Network(Sizes(50, n_layers=3, d_model=32, n_heads=4, d_mlp=64, n_ctx=96))
    generator = torch.Generator().manual_seed(0)
    network.initialise(generator)
    for parameter in network.parameters():  # biases and norms too, so that a misplaced one would show
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    tokens = torch.randint(50, (2, 96), generator=generator)
    hooked = to_hooked(network.sizes.as_dict(), network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(hooked(tokens, prepend_bos=False), network(tokens), atol=1e-5, rtol=0)
