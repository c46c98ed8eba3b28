"""Whether a method collapses: the rank and the spread of features at hand, and meters of predictions over classes,
prototypes or clusters, of the samples of all ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import mean_over_ranks, total

_EPSILON = 1e-7
_TINY = 1e-14


def rank_me(features: Tensor) -> Tensor:
    """RankMe, the effective rank of features (N, D): from 1 for a line to min(N, D) where all directions are as long.

    The exponential of the entropy of p, the singular values divided by their sum, plus 1e-7; features are not centred.
    Calculated from the smaller Gram matrix in float64: its eigenvalues are the squares, of which float32 would keep too
    few digits. Waits for the device; nan where a feature is not finite.

    Source: arXiv 2210.02885, equation 1, which takes a sample of 25,600 features where the loop has those of a batch.
    """
    wide = features.double()
    return rank_of_gram(wide @ wide.T if len(wide) < wide.shape[1] else wide.T @ wide)


def rank_of_gram(gram: Tensor, rows: int | None = None) -> Tensor:
    """`rank_me` of features whose products are `gram`, float64 (D, D), and which were `rows` many, at least D by
    default."""
    finite = gram.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp(min=0).sqrt()
    values = values[max(0, len(values) - (rows or len(values))) :]
    return torch.where(finite, effective_rank(values, _EPSILON), torch.nan).float()


def effective_rank(values: Tensor, epsilon: float) -> Tensor:
    """The exponential of the entropy of p, values (K,) divided by their sum, plus `epsilon`."""
    p = values / values.sum().clamp(min=_TINY) + epsilon
    return torch.exp(-(p * p.log()).sum())


def spread(features: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of features (N, D) at length 1: the root of 1 / D where they are
    spread evenly over the sphere, 0 where all are the same.

    Source: SimSiam (arXiv 2011.10566), section 4.1.
    """
    return F.normalize(features.float(), dim=1).std(dim=0, correction=0).mean()


@torch.no_grad()
def target_entropies(targets: Tensor) -> dict[str, Tensor]:
    """`target_entropy`, the mean entropy of rows that add up to 1, and `mean_target_entropy`, that of their mean, in
    nats.

    Both are ln K where all rows are uniform, and 0 where all say the same prototype for certain: the two ways to
    collapse. Sharp rows that use all prototypes alike have a small first and a large second one.

    Args:
        targets: (N, K); every rank has as many.
    """
    p = targets.float()
    return {
        "target_entropy": mean_over_ranks(torch.special.entr(p).sum(dim=1).mean()),
        "mean_target_entropy": torch.special.entr(mean_over_ranks(p.mean(dim=0))).sum(),
    }


def target_meters(targets: Tensor) -> dict[str, Tensor]:
    """`target_entropies` of rows (N, K), and `prototypes_used`, see `share_used`."""
    return {**target_entropies(targets), "prototypes_used": share_used(targets)}


@torch.no_grad()
def share_used(scores: Tensor) -> Tensor:
    """Share of K prototypes that are the largest score of some row (N, K) of some rank; at most the rows over K."""
    used = scores.new_zeros(scores.shape[1], dtype=torch.float32).scatter_(0, scores.argmax(dim=1), 1.0)
    return (total(used) > 0).float().mean()
