"""Samples change places over all ranks, so that who is normalised with whom tells nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.models.parts.collectives import gathered, rank, world_size


@torch.no_grad()
def shuffled(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, ...) of the samples of all ranks in a random order, this rank's share of it, and the order, int64 (N * W,).

    The order is drawn on rank 0, from torch's default generator.
    """
    order = torch.randperm(len(x) * world_size(), device=x.device)
    if world_size() > 1:
        dist.broadcast(order, 0)
    return gathered(x)[order.chunk(world_size())[rank()]], order


@torch.no_grad()
def unshuffled(x: Tensor, order: Tensor) -> Tensor:
    """Inverse of `shuffled`: (N, ...) where each row belongs to this rank's own sample."""
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return gathered(x)[places.chunk(world_size())[rank()]]
