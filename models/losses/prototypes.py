"""Predict the assignment of another view to prototypes: SwAV."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses.precision import full_precision
from headrace.models.parts.collectives import total


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments of the samples of all ranks to prototypes, each prototype having the same share of them.

    Starting from `exp(scores / epsilon)`, prototypes and then samples are divided by their sums, `iterations` times.
    A constant taken off a prototype's scores changes nothing, so its largest over all ranks is, and nothing overflows.

    Args:
        scores: (N, K) of samples and prototypes; every rank passes the same K, N may differ.
        epsilon: sharpness; smaller is closer to a hard assignment. Above 0.
        iterations: how often; 3 in the papers.

    Returns:
        (N, K), rows add up to 1; without gradient.

    Source: arXiv 2006.09882, section 3.1; authors' code facebookresearch/swav at 06b1b7c, main_swav.py,
    distributed_sinkhorn.
    """
    if epsilon <= 0:
        raise ValueError(f"sinkhorn needs an epsilon above 0, got {epsilon}")
    q = torch.exp((scores - _largest(scores)) / epsilon)
    prototypes, samples = scores.shape[1], total(scores.new_tensor(float(len(scores))))
    for _ in range(iterations):
        q = q / total(q.sum(dim=0)) / prototypes
        q = q / q.sum(dim=1, keepdim=True) / samples
    return q * samples


def _largest(scores: Tensor) -> Tensor:
    """(K,): each prototype's largest score over the samples of all ranks; a rank may have none."""
    result = torch.cat([scores, scores.new_full((1, scores.shape[1]), float("-inf"))]).amax(dim=0)
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
    if len(scores) < 2:
        raise ValueError(f"swapped_prediction needs at least two views, got {len(scores)}")
    logs = [F.log_softmax(score / temperature, dim=1) for score in scores]
    pairs = [
        -(target.detach() * log).sum(dim=1).mean()
        for i, target in enumerate(targets)
        for v, log in enumerate(logs)
        if i != v
    ]
    return torch.stack(pairs).mean()
