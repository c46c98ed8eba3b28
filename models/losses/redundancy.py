"""Agree, and say each thing once: Barlow Twins."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from headrace.models.losses.precision import full_precision
from headrace.models.parts.collectives import summed, summed_with_local_gradient, world_size


@full_precision
def barlow_twins_loss(
    z1: Tensor, z2: Tensor, lambd: float, *, over_ranks: Literal["exact", "local_gradient"], eps: float = 1e-5
) -> Tensor:
    """The cross-correlation of two views' projections, drawn to the identity.

    `c = z1'^T z2' / NW` with columns of mean 0 and variance 1 over the samples of all ranks;
    `sum_i (c_ii - 1)^2 + lambd * sum_{i != j} c_ij^2`.

    Args:
        z1, z2: (N, D), D above 1; every rank passes the same N.
        lambd: weight of the terms off the diagonal, 0.0051 in the paper.
        over_ranks: "exact" gives, with gradients averaged over ranks, the gradient of this loss; "local_gradient" is
            the authors' all-reduce without autograd, which gives 1/W of it, so that learning rates for biases depend on
            the number of ranks. Nothing to choose between them on one.
        eps: added to the variance.

    Returns:
        float32 scalar (float64 for float64), the same on all ranks.

    Source: arXiv 2103.03230, algorithm 1; authors' code facebookresearch/barlowtwins at 8e8d284, main.py.
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(f"barlow_twins_loss needs two (N, D) tensors, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    samples = len(z1) * world_size()
    c = _standardized(z1, samples, eps).T @ _standardized(z2, samples, eps) / samples  # (D, D)
    c = summed(c) if over_ranks == "exact" else summed_with_local_gradient(c)
    d = len(c)
    off_diagonal = c.flatten()[:-1].view(d - 1, d + 1)[:, 1:]
    return (torch.diagonal(c) - 1).square().sum() + lambd * off_diagonal.square().sum()


def _standardized(z: Tensor, samples: int, eps: float) -> Tensor:
    """(N, D) with columns of mean 0 and variance 1 over all ranks: batch norm without weights."""
    centered = z - summed(z.sum(dim=0)) / samples
    return centered * (summed(centered.square().sum(dim=0)) / samples + eps).rsqrt()
