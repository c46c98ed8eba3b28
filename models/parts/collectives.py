"""What ranks exchange inside a method. Every function returns new memory, never writes into its argument, and is the
identity (or what one rank would get) without `torch.distributed`.

Which of them carries gradient is part of a method's definition: exact results under gradients that are averaged over
ranks come from `gather` and `summed`; `gathered` and the functions under no_grad cut it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Ranks that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This one of them."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(x: Tensor) -> Tensor:
    """(N, ...) of each of W ranks to (N * W, ...) on every rank, in rank order, with gradient to all of them.

    N must be the same on every rank. The backward pass sums what all ranks' losses ask of this rank's part.
    """
    if world_size() == 1:
        return x
    result: Tensor = _Gather.apply(x)
    return result


@torch.no_grad()
def gathered(x: Tensor) -> Tensor:
    """`gather` without gradient."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def summed(x: Tensor) -> Tensor:
    """The sum over ranks, with gradient: the backward pass sums over ranks as well, so that a loss of it, which is the
    same on all ranks, has its true gradient when gradients are averaged."""
    if world_size() == 1:
        return x
    result: Tensor = _Sum.apply(x)
    return result


def summed_with_local_gradient(x: Tensor) -> Tensor:
    """The sum over ranks whose gradient is taken for this rank's own addend alone.

    An in-place all-reduce that autograd does not see does the same: the gradient of a loss of it, averaged over W
    ranks, is 1/W of the true one. Only for methods whose published code does so.
    """
    if world_size() == 1:
        return x
    return x + (total(x) - x.detach())


@torch.no_grad()
def total(x: Tensor) -> Tensor:
    """The sum over ranks, without gradient."""
    result = x.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.all_reduce(result)
    return result


@torch.no_grad()
def from_first(x: Tensor) -> Tensor:
    """Rank 0's `x`, which has the same shape and dtype on every rank, without gradient."""
    result = x.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.broadcast(result, 0)
    return result


@torch.no_grad()
def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean over ranks, without gradient."""
    return total(x) / world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gathered(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        if gradient.device.type == "cuda":  # half of the bytes of an all-reduce
            own = torch.empty_like(gradient.chunk(world_size())[rank()], memory_format=torch.contiguous_format)
            dist.reduce_scatter_tensor(own, gradient.contiguous())
            return own
        return total(gradient).chunk(world_size())[rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])
