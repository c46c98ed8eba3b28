"""What a method remembers of earlier batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.parts.collectives import gathered


class Queue(nn.Module):
    """The last K rows that were put in, the same on all ranks; the oldest are replaced.

    Args:
        rows: K.
        dim: D of a row.
        noise: begin with rows of length 1 in random directions, as MoCo does; otherwise with zeros.
    """

    rows: Tensor
    """(K, D)."""
    oldest: Tensor
    """int64 scalar: number of the row that is replaced next."""

    def __init__(self, rows: int, dim: int, *, noise: bool) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(rows, dim), dim=1) if noise else torch.zeros(rows, dim))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def put(self, rows: Tensor) -> None:
        """Replace the oldest rows by (N, D) of each rank, in rank order. N times the ranks must be at most K.

        Nothing is read back from the device.
        """
        rows = gathered(rows).to(self.rows.dtype)
        if len(rows) > len(self.rows):
            raise ValueError(f"a queue of {len(self.rows)} rows cannot take {len(rows)} at once; make it longer")
        numbers = (self.oldest + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows.index_copy_(0, numbers, rows)
        self.oldest.add_(len(rows)).remainder_(len(self.rows))
