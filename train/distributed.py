"""One process or many: who this rank is, and the few collectives that the loop needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from headrace.models import Method
from headrace.pipeline import Batch
from headrace.train.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among all that train together."""

    rank: int
    """0 to `size` - 1; rank 0 alone writes files."""
    size: int
    """Number of processes; 1 without torchrun."""
    device: torch.device
    """Where this rank trains."""

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks, as a tensor of its own."""
        total = values.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total / self.size

    def greatest(self, values: Tensor) -> Tensor:
        """Each value's maximum over ranks, as a tensor of its own on the device, which is not waited for."""
        total = values.clone()
        if self.size > 1:
            dist.all_reduce(total, op=dist.ReduceOp.MAX)
        return total

    def max(self, *values: int) -> list[int]:
        """Each value's maximum over ranks; also a barrier."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return shared.tolist()

    def each(self, value: T) -> list[T]:
        """What each rank passed, plain values, on all of them."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


@contextmanager
def join(device: str, timeout_s: float) -> Iterator[World]:
    """The world that torchrun describes in the environment, or a world of one.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA where there is some. Ranks talk over gloo on the CPU and over
            nccl on CUDA, each with the GPU of its local rank.
        timeout_s: seconds that ranks wait for each other.

    Raises:
        ConfigError: if CUDA is asked for and missing.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: must be cpu or auto on a machine without CUDA, got 'cuda'")
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    place = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(place)
    ours = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s))
    try:
        if dist.is_initialized():
            yield World(dist.get_rank(), dist.get_world_size(), place)
        else:
            yield World(0, 1, place)
    finally:
        if ours:
            dist.destroy_process_group()


class LossModule(nn.Module):
    """A method as a module whose forward is its loss, which is what DistributedDataParallel wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.loss(batch)


def distribute(method: Method, world: World, sync_batch_norm: bool) -> nn.Module:
    """A module from a batch to `method`'s losses, whose gradients are averaged over ranks.

    Args:
        sync_batch_norm: replaces `method`'s batch norms, in place, by ones with statistics over all ranks.

    Raises:
        ConfigError: if `sync_batch_norm` is asked for on several CPU ranks, where torch has none.
    """
    if world.size == 1:
        return LossModule(method)
    if sync_batch_norm:
        if world.device.type != "cuda":
            raise ConfigError("sync_batch_norm: must be false for several ranks on the CPU, got True")
        nn.SyncBatchNorm.convert_sync_batchnorm(method)
    return DistributedDataParallel(LossModule(method))


@contextmanager
def last_part(module: nn.Module, last: bool) -> Iterator[None]:
    """Gradients of a step's parts are averaged over ranks once, behind the last of them."""
    if last or not isinstance(module, DistributedDataParallel):
        yield
        return
    with module.no_sync():
        yield
