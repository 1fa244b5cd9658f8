"""Linear CKA between sets of representations, unbiased by default."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.metrics.precision import in_float64

Representations = Float[Tensor, "layer sample d"] | Sequence[Float[Tensor, "sample _"]]


def hsic_matrix(layers: Representations, *, unbiased: bool = True) -> Float[Tensor, "layer layer"]:
    """HSIC with linear kernels between every two sets of representations of the same samples, in float64.

    Unbiased (Song et al. 2012; n >= 4 samples), with K and L the Gram matrices without their diagonals:
    [tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3)). Biased: tr(KHLH) / (n-1)^2.
    Minibatches: average the matrices, then divide once with `cka_of_hsic`.
    """
    sizes = {len(layer) for layer in layers}
    if len(sizes) != 1:
        raise InputError(f"Representations have {sorted(sizes)} samples; compare the same samples in every layer.")
    n = sizes.pop()
    if n < (4 if unbiased else 2):
        raise InputError(f"{n} samples are too few for CKA; the unbiased estimate needs at least 4, the biased 2.")
    grams = torch.stack([_gram(layer) for layer in layers])
    if not unbiased:
        return grams.flatten(1) @ grams.flatten(1).T / (n - 1) ** 2
    grams.diagonal(dim1=1, dim2=2).zero_()
    rows = grams.sum(2)
    total = rows.sum(1)
    traces = grams.flatten(1) @ grams.flatten(1).T
    return (traces + total.outer(total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T) / (n * (n - 3))


def cka_of_hsic(hsic: Float[Tensor, "layer layer"]) -> Float[Tensor, "layer layer"]:
    """CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)); NaN for a layer whose representations do not vary."""
    diagonal = hsic.diagonal()
    scale = torch.where(diagonal > 0, diagonal, torch.nan).sqrt()
    return hsic / scale.outer(scale)


def cka_matrix(layers: Representations, *, unbiased: bool = True) -> Float[Tensor, "layer layer"]:
    """Linear CKA between every two layers: 1 on the diagonal, about 0 for independent representations.

    Invariant to rotations, shifts and isotropic scaling of either. The biased estimate is close to 1 whenever there are
    more dimensions than samples: it is 0.85 for independent Gaussians of 768 dimensions and 128 samples.
    """
    return cka_of_hsic(hsic_matrix(layers, unbiased=unbiased))


def _gram(layer: Tensor) -> Tensor:
    exact = in_float64(layer)
    centred = exact - exact.mean(0)  # HSIC ignores a shift; removing it first preserves precision
    return centred @ centred.T
