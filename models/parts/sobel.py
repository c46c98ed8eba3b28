"""Edges in the place of colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sobel(nn.Module):
    """The horizontal and the vertical slope of the channels' mean, by Sobel's filters: (B, 3, H, W) to (B, 2, H, W).

    The filters are fixed, and the border is padded with zeros.

    Source: facebookresearch/deepcluster at 2d1927e, models/alexnet.py.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        down = across.T
        filters = torch.stack([across, down])[:, None].expand(2, 3, 3, 3) / 3  # mean and slope at once
        self.register_buffer("filters", filters.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters, padding=1)
