"""Losses as pure functions in their papers' symbols.

Letters in shapes: N samples of this rank, W ranks, D dimensions of a projection.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR's normalised temperature-scaled cross entropy.

    For each of the 2N views, the cross entropy of finding the other view of the same sample among the other
    2NW - 1 views of all ranks, by cosine similarity over `temperature`:
    `l(i, j) = -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t))`, mean over this rank's 2N views.

    Where `torch.distributed` is initialised the negatives of the other ranks take part, with their gradient; every
    rank must then pass the same N. The mean of the ranks' losses, and so the gradient that
    DistributedDataParallel averages, is that of one process with all the samples.

    Args:
        z1, z2: (N, D) projections of the two views, of any float type; not normalised yet. Computed in float32,
            also under autocast.
        temperature: t, above 0.

    Returns:
        float32 scalar.

    Source: arXiv 2002.05709, equation 1 and algorithm 1; authors' code google-research/simclr at be133b3,
    objective.py.
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(f"nt_xent needs two (N, D) tensors, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if temperature <= 0:
        raise ValueError(f"nt_xent needs a temperature above 0, got {temperature}")
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)  # (2N, D)
        n, rank = len(z1), dist.get_rank() if dist.is_initialized() else 0
        logits = z @ gather(z).T / temperature  # (2N, 2NW), ranks side by side
        own = torch.arange(2 * n, device=z.device)
        itself = own + rank * 2 * n
        other_view = (own + n) % (2 * n) + rank * 2 * n
        logits = logits.scatter(1, itself[:, None], float("-inf"))
        return F.cross_entropy(logits, other_view)


def gather(x: Tensor) -> Tensor:
    """(N, ...) of each of W ranks to (N * W, ...) on every rank, in rank order, with gradient to all of them.

    Without `torch.distributed` it is `x` itself. N must be the same on every rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather, whose backward sums what all ranks' losses ask of this rank's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # The gradient may be another function's too, and nothing is written into it.
        [gradient] = gradients
        rank, size = dist.get_rank(), dist.get_world_size()
        if gradient.device.type == "cuda":
            own = torch.empty_like(gradient.chunk(size)[rank], memory_format=torch.contiguous_format)
            dist.reduce_scatter_tensor(own, gradient.contiguous())
            return own
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(size)[rank]
