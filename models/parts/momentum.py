"""A network that follows another one slowly, and a centre that follows means."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from headrace.models.parts.collectives import mean_over_ranks

Module = TypeVar("Module", bound=nn.Module)


def slow_copy(module: Module) -> Module:
    """A copy with the same weights that gets no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """`slow <- momentum * slow + (1 - momentum) * fast` for all parameters, which both have in the same order.

    Buffers, such as running statistics, stay as they are: the authors of MoCo, BYOL and DINO average parameters only.
    With momentum 1 nothing changes, with 0 `slow` becomes `fast`, to the bit.
    """
    get_ema_multi_avg_fn(momentum)(list(slow.parameters()), list(fast.parameters()), None)


@torch.no_grad()
def follow_means(slow: Tensor, means: list[Tensor], momentum: float) -> None:
    """`slow <- momentum * slow + (1 - momentum) * mean`, and the list is emptied.

    Args:
        means: of the parts of this rank's batch, of `slow`'s shape; what counts is their mean over parts and ranks.
    """
    slow.lerp_(mean_over_ranks(torch.stack(means).mean(dim=0)), 1 - momentum)
    means.clear()
