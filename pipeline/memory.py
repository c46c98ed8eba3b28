"""Memory of batches: lent with their tensors, and used again when it is safe."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor


class BufferPool:
    """Gives out memory for batches. It comes back by itself when the last tensor over it is gone.

    Where there is a GPU the memory is pinned, and torch's own allocator gives it out: that knows which copies from it
    are still under way, on whatever stream, and waits for them before anybody else gets it.

    Args:
        keep: buffers of a shape and type to keep for the next batches; more that come back are given back to the
            system.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._pinned = torch.cuda.is_available()
        self.free: dict[tuple[tuple[int, ...], torch.dtype], deque[Tensor]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer with unspecified content."""
        if self._pinned:
            return pinned(shape, dtype)
        waiting = self.free.get((shape, dtype))
        return waiting.pop() if waiting else torch.empty(shape, dtype=dtype)

    def lend(self, buffer: Tensor) -> Tensor:
        """A tensor over the memory of `buffer`, which is used again when every tensor that shares it is gone."""
        if self._pinned:
            return buffer
        lease = buffer.numpy().view(_Lease)
        waiting = self.free.setdefault((tuple(buffer.shape), buffer.dtype), deque(maxlen=self._keep))
        weakref.finalize(lease, waiting.append, buffer).atexit = False
        return torch.from_numpy(lease)


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory from which a GPU copies without being waited for. The tensor itself must be what is copied: torch knows
    its memory by it."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


class _Lease(np.ndarray):
    """The array object that a lent tensor keeps alive."""
