"""Agree, and say each thing once: Barlow Twins, VICReg, TiCo."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import gather, mean_over_ranks, summed, summed_with_local_gradient, world_size
from headrace.models.parts.precision import full_precision


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
    return (torch.diagonal(c) - 1).square().sum() + lambd * _off_diagonal(c).square().sum()


class VICRegTerms(NamedTuple):
    """What VICReg weighs and adds, float32 scalars (float64 for float64)."""

    invariance: Tensor
    """Mean squared difference of the views."""
    variance: Tensor
    """What is missing to a deviation of 1, mean over dimensions and views."""
    covariance: Tensor
    """Squared covariances of different dimensions over D, both views' added."""


@full_precision
def vicreg_terms(z1: Tensor, z2: Tensor) -> VICRegTerms:
    """VICReg's three terms, weighed 25, 25 and 1 in the paper.

    Deviations and covariances are of the samples of all ranks, with gradient, so that the mean of the ranks' losses has
    the gradient of one process with all the samples. Every rank must pass the same N.

    Args:
        z1, z2: (N, D), D above 1, N times the ranks above 1.

    Source: arXiv 2105.04906, equations 1 to 6; authors' code facebookresearch/vicreg at 4e12602, main_vicreg.py, which
    takes means over dimensions and halves the variance term, where the paper adds.
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(f"vicreg_terms needs two (N, D) tensors, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    invariance = F.mse_loss(z1, z2)
    variance = covariance = z1.new_zeros(())
    for z in (gather(z1), gather(z2)):
        centered = z - z.mean(dim=0)
        deviation = (centered.square().sum(dim=0) / (len(z) - 1) + 1e-4).sqrt()
        variance = variance + F.relu(1 - deviation).mean() / 2
        covariance = covariance + _off_diagonal(centered.T @ centered / (len(z) - 1)).square().sum() / z.shape[1]
    return VICRegTerms(invariance, variance, covariance)


@full_precision
def second_moment(z: Tensor) -> Tensor:
    """(D, D): the mean of `z z^T` over the samples of all ranks, rows scaled to length 1, without gradient."""
    z = F.normalize(z.detach(), dim=1)
    return mean_over_ranks(z.T @ z / len(z))


@full_precision
def tico_loss(z1: Tensor, z2: Tensor, moment: Tensor, rho: float) -> Tensor:
    """TiCo's loss: `1 - mean z1.z2 + rho mean z1^T C z1`, rows scaled to length 1.

    Args:
        z1: (N, D) of the network that is trained.
        z2: (N, D) of the slow one, without gradient.
        moment: C, (D, D): the running `second_moment`, this batch's in it, without gradient.
        rho: weight of the second term, 8 in lightly.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2206.10698, equation 7; its authors' code is not known, lightly-ai/lightly at e8d317f,
    loss/tico_loss.py.
    """
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2.detach(), dim=1)
    agreement = (z1 * z2).sum(dim=1).mean()
    return 1 - agreement + rho * (z1 @ moment.detach().to(z1.dtype) * z1).sum(dim=1).mean()


def _off_diagonal(square: Tensor) -> Tensor:
    """(D - 1, D): what of (D, D) is not on the diagonal."""
    d = len(square)
    return square.flatten()[:-1].view(d - 1, d + 1)[:, 1:]


def _standardized(z: Tensor, samples: int, eps: float) -> Tensor:
    """(N, D) with columns of mean 0 and variance 1 over all ranks: batch norm without weights."""
    centered = z - summed(z.sum(dim=0)) / samples
    return centered * (summed(centered.square().sum(dim=0)) / samples + eps).rsqrt()
