"""Predict assignments to prototypes: SwAV, DINOv2, CAPI, DeepCluster-v2, MSN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import mean_over_ranks, summed, total, world_size
from headrace.models.parts.precision import full_precision


@torch.no_grad()
@full_precision
def sinkhorn(
    scores: Tensor, epsilon: float | Tensor, iterations: int, counted: Tensor | None = None, *, slack: float
) -> Tensor:
    """Soft assignments of the samples of all ranks to prototypes, each prototype having the same share of them.

    Starting from `exp(scores / epsilon)`, prototypes and then samples are divided by their sums, `iterations` times.
    A constant taken off a prototype's scores changes nothing, so its largest over all ranks is, and nothing overflows.

    Args:
        scores: (..., N, K) of samples and prototypes; every rank passes the same K, N may differ. What stands in front,
            such as places, is shared out by itself.
        epsilon: sharpness; smaller is closer to a hard assignment. Above 0; a scalar tensor may change between steps of
            a compiled loss.
        iterations: how often; 3 in the papers.
        counted: bool (N,), the rows that are samples, at least one over all ranks; what the others hold has no effect.
            None means all.
        slack: added to the sums that are divided by, in units of what they come to: 0 adds nothing, as SwAV, DINOv2 and
            MSN do; CAPI's 1e-8 leaves a sample that is far from all prototypes with less than a whole share.

    Returns:
        (..., N, K), rows add up to 1, or less by `slack`, and those that are no samples to 0; without gradient.

    Source: arXiv 2006.09882, section 3.1; authors' code facebookresearch/swav at 06b1b7c, main_swav.py,
    distributed_sinkhorn. With `slack` arXiv 2502.08769; facebookresearch/capi at 98b4fa1, model.py, sinkhorn_knopp.
    """
    if not isinstance(epsilon, Tensor) and epsilon <= 0:
        raise ValueError(f"sinkhorn needs an epsilon above 0, got {epsilon}")
    if counted is not None:
        scores = scores.masked_fill(~counted[:, None], float("-inf"))
    q = torch.exp((scores - _largest(scores)) / epsilon)
    prototypes, n = scores.shape[-1], scores.shape[-2]
    samples = total(scores.new_tensor(float(n)) if counted is None else counted.sum().to(scores.dtype))
    for number in range(iterations):
        of_prototype = total(q.sum(dim=-2, keepdim=True))
        q = q / (of_prototype + (slack / samples if number else slack)) / prototypes
        of_sample = q.sum(dim=-1, keepdim=True) + slack / prototypes
        q = q / (of_sample if counted is None else of_sample.masked_fill(~counted[:, None], 1.0)) / samples
    return q * samples


def _largest(scores: Tensor) -> Tensor:
    """(..., 1, K): each prototype's largest score over the samples of all ranks; a rank may have none."""
    none = scores.new_full((*scores.shape[:-2], 1, scores.shape[-1]), float("-inf"))
    result = torch.cat([scores, none], dim=-2).amax(dim=-2, keepdim=True)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(result, op=torch.distributed.ReduceOp.MAX)
    return result


@full_precision
def swapped_prediction(scores: Sequence[Tensor], targets: Sequence[Tensor], temperature: float) -> Tensor:
    """Each view predicts the assignments of the large views other than itself.

    For each large view i the mean over the V - 1 other views of `-sum q_i log softmax(scores_v / t)`, mean over N;
    averaged over the large views.

    Args:
        scores: V tensors (N, K), one a view, the large ones first.
        targets: (N, K) of each large view: see `sinkhorn`.
        temperature: t, above 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2006.09882, equation 2; authors' code facebookresearch/swav at 06b1b7c, main_swav.py, train.
    """
    return torch.stack([term for _, term in _pairs(scores, targets, temperature)]).mean()


@full_precision
def crossed_views(scores: Sequence[Tensor], targets: Sequence[Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """`swapped_prediction` in two addends: what large views add to it, and what small ones do, as DINOv2 logs it.

    Args:
        scores, targets, temperature: as there.

    Returns:
        Two float32 scalars (float64 for float64); the second is 0 without small views.

    Source: arXiv 2304.07193, section 4; authors' code facebookresearch/dinov2 at b8931f7, dinov2/train/ssl_meta_arch.py
    and dinov2/loss/dino_clstoken_loss.py.
    """
    pairs = _pairs(scores, targets, temperature)
    large = [term for view, term in pairs if view < len(targets)]
    small = [term for view, term in pairs if view >= len(targets)]
    nothing = scores[0].new_zeros(1)
    return torch.stack(large).sum() / len(pairs), (torch.stack(small) if small else nothing).sum() / len(pairs)


def _pairs(scores: Sequence[Tensor], targets: Sequence[Tensor], temperature: float) -> list[tuple[int, Tensor]]:
    """Of each large view and each other one: the other one's number, and its mean cross entropy."""
    if len(scores) < 2:
        raise ValueError(f"swapped_prediction needs at least two views, got {len(scores)}")
    logs = [F.log_softmax(score / temperature, dim=1) for score in scores]
    return [
        (v, -(target.detach() * log).sum(dim=1).mean())
        for i, target in enumerate(targets)
        for v, log in enumerate(logs)
        if i != v
    ]


@full_precision
def assignment_loss(scores: Tensor, assigned: Tensor, temperature: float) -> Tensor:
    """The cross entropy `-sum q log softmax(s / t)`, mean over rows. The assignments get no gradient.

    Args:
        scores: s, (..., K).
        assigned: q, (..., K), rows that add up to 1: see `sinkhorn`.
        temperature: t, above 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2502.08769, section 3; authors' code facebookresearch/capi at 98b4fa1, train_capi.py, do_student, and
    model.py, OnlineClustering.
    """
    return -(assigned.detach() * F.log_softmax(scores / temperature, dim=-1)).sum(dim=-1).mean()


@full_precision
def masked_siamese_terms(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    temperature: float,
    sharpening: float,
    sinkhorn_iterations: int,
) -> tuple[Tensor, Tensor]:
    """MSN's two terms: anchors are assigned to prototypes as their sample's target is, and all of them on average to
    none more than to others.

    With `p(z) = softmax(z . prototypes / t)`, all of length 1: the mean over anchors of `-sum q log p`, where the
    target's q is p to the power of 1 / `sharpening`, divided by its sum and then shared out by Sinkhorn's iteration;
    and `ln K - H(mean of p over the anchors of all ranks)`. Targets get no gradient, nor do prototypes through them.

    Args:
        anchors: (A * N, D), view by view, not normalised yet.
        targets: (N, D), likewise; no target of an anchor's own view.
        prototypes: (K, D), likewise.
        temperature, sharpening: t, and the temperature of the sharpening; above 0.
        sinkhorn_iterations: 3 in the paper; 0 leaves targets as they are sharpened.

    Returns:
        Two float32 scalars (float64 for float64), each from 0.

    Source: arXiv 2204.07141, equations 1 and 2; authors' code facebookresearch/msn at 4388dc1, src/losses.py.
    """
    logs = F.log_softmax(F.normalize(anchors, dim=1) @ F.normalize(prototypes, dim=1).T / temperature, dim=1)
    shares = sharpened_assignments(targets, prototypes, temperature, sharpening, sinkhorn_iterations)
    cross_entropy = -(shares.repeat(len(anchors) // len(targets), 1) * logs).sum(dim=1).mean()
    mean = summed(logs.exp().mean(dim=0)) / world_size()
    return cross_entropy, math.log(len(prototypes)) - torch.special.entr(mean).sum()


@full_precision
@torch.no_grad()
def sharpened_assignments(
    targets: Tensor, prototypes: Tensor, temperature: float, sharpening: float, sinkhorn_iterations: int
) -> Tensor:
    """The q of `masked_siamese_terms`, (N, K), whose rows add up to 1. Arguments are as there."""
    scores = F.normalize(targets, dim=1) @ F.normalize(prototypes, dim=1).T / (temperature * sharpening)
    sharp = F.log_softmax(scores, dim=1)
    return sinkhorn(sharp, 1.0, sinkhorn_iterations, slack=0.0) if sinkhorn_iterations else sharp.exp()


@full_precision
def cluster_cross_entropy(scores: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """DeepCluster-v2's loss of one set of clusters: each view of a sample belongs to the sample's cluster.

    The mean, over all views of the samples of all ranks that have a cluster, of `-log softmax(scores / t)[label]`.

    Args:
        scores: (V * N, K), view by view.
        labels: int64 (N,), clusters of samples; below 0 for one that has none.
        temperature: t, above 0.

    Returns:
        float32 scalar (float64 for float64); 0 where no sample has a cluster.

    Source: authors' code facebookresearch/swav at 06b1b7c, main_deepclusterv2.py, train, which takes the mean of each
    rank's own samples.
    """
    labels = labels.repeat(len(scores) // len(labels))
    whole = F.cross_entropy(scores / temperature, labels.where(labels >= 0, -100), reduction="sum")
    return whole / mean_over_ranks((labels >= 0).sum().to(scores.dtype)).clamp(min=1)
