"""Whether targets collapse: meters of predictions over classes, prototypes or clusters, of the samples of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.models.parts.collectives import mean_over_ranks, total


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
