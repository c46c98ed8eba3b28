"""Predict the assignment of another view to prototypes: SwAV, DINOv2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses.precision import full_precision
from headrace.models.parts.collectives import total


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, epsilon: float | Tensor, iterations: int, counted: Tensor | None = None) -> Tensor:
    """Soft assignments of the samples of all ranks to prototypes, each prototype having the same share of them.

    Starting from `exp(scores / epsilon)`, prototypes and then samples are divided by their sums, `iterations` times.
    A constant taken off a prototype's scores changes nothing, so its largest over all ranks is, and nothing overflows.

    Args:
        scores: (N, K) of samples and prototypes; every rank passes the same K, N may differ.
        epsilon: sharpness; smaller is closer to a hard assignment. Above 0; a scalar tensor may change between steps of
            a compiled loss.
        iterations: how often; 3 in the papers.
        counted: bool (N,), the rows that are samples, at least one over all ranks; what the others hold has no effect.
            None means all.

    Returns:
        (N, K), rows add up to 1, and those that are no samples to 0; without gradient.

    Source: arXiv 2006.09882, section 3.1; authors' code facebookresearch/swav at 06b1b7c, main_swav.py,
    distributed_sinkhorn.
    """
    if not isinstance(epsilon, Tensor) and epsilon <= 0:
        raise ValueError(f"sinkhorn needs an epsilon above 0, got {epsilon}")
    if counted is not None:
        scores = scores.masked_fill(~counted[:, None], float("-inf"))
    q = torch.exp((scores - _largest(scores)) / epsilon)
    prototypes = scores.shape[1]
    samples = total(scores.new_tensor(float(len(scores))) if counted is None else counted.sum().to(scores.dtype))
    for _ in range(iterations):
        q = q / total(q.sum(dim=0)) / prototypes
        of_sample = q.sum(dim=1, keepdim=True)
        q = q / (of_sample if counted is None else of_sample.masked_fill(~counted[:, None], 1.0)) / samples
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
