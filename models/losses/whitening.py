"""Agree behind a whitening, which keeps samples apart: W-MSE."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import gather, world_size
from headrace.models.parts.precision import full_precision


@full_precision
def whitened(x: Tensor, *, eps: float) -> Tensor:
    """Each group of samples with mean 0 and the identity as its covariance: `L^-1 (x - mean)`, where `L L^T` is
    Cholesky's decomposition of the group's covariance. Gradient passes through mean and covariance, too.

    Nothing is read back from the device: a group whose covariance is singular becomes NaN, which ends a run.

    Args:
        x: (..., n, D), groups of n samples, n above D.
        eps: share of the identity in the covariance; 0 in the paper.

    Returns:
        float32 (..., n, D) (float64 for float64).

    Source: arXiv 2007.06346, equation 5; authors' code htdt/self-supervised at d9662c8, methods/whitening.py.
    """
    n, d = x.shape[-2:]
    if n <= d:
        raise ValueError(f"{n} samples have no covariance of {d} dimensions that can be inverted; take more than {d}")
    centred = x - x.mean(dim=-2, keepdim=True)
    covariance = centred.mT @ centred / (n - 1)  # (..., D, D)
    if eps:
        covariance = (1 - eps) * covariance + eps * torch.eye(d, dtype=x.dtype, device=x.device)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    factor = factor.masked_fill((failed != 0)[..., None, None], float("nan"))
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT


@full_precision
def w_mse_loss(z: Tensor, orders: Tensor, size: int, *, eps: float) -> Tensor:
    """W-MSE's loss: `2 - 2 cos` of two views' whitened projections, mean over samples, pairs of views and partitions.

    A partition puts the samples of all ranks into groups of `size`, the same for all views, and whitens each view of
    each group by itself. Gradient goes to all views, over all ranks, so that the mean of the ranks' losses has the
    gradient of one process with all the samples.

    Args:
        z: (N, V, D), the V projections of each sample, not normalised; every rank passes the same N.
        orders: int64 (P, M), the same on all ranks: for each of P partitions, numbers of M of the N * W samples in rank
            order, of which each `size` are a group.
        size: samples of a group, above D; it divides M.
        eps: see `whitened`; 0 in the paper.

    Returns:
        float32 scalar (float64 for float64), the same on all ranks.

    Source: arXiv 2007.06346, equation 6; authors' code htdt/self-supervised at d9662c8, methods/w_mse.py and
    norm_mse.py, which scale rows to length 1 behind the whitening.
    """
    if z.ndim != 3 or orders.ndim != 2:
        raise ValueError(f"w_mse_loss needs (N, V, D) and (P, M), got {tuple(z.shape)} and {tuple(orders.shape)}")
    if not orders.shape[1] or orders.shape[1] % size:
        samples = len(z) * world_size()
        raise ValueError(f"a batch of {samples} cannot be put into groups of {size}; take a multiple of it")
    groups = gather(z)[orders].unflatten(1, (-1, size)).transpose(2, 3)  # (P, groups, V, size, D)
    views = F.normalize(whitened(groups, eps=eps), dim=-1).unbind(dim=2)
    cosines = [(first * second).sum(dim=-1).mean() for first, second in combinations(views, 2)]
    return 2 - 2 * torch.stack(cosines).mean()
