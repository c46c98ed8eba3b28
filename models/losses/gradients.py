"""Histograms of oriented gradients, which MaskFeat predicts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision

BINS = 9
"""Orientations, without a sign, of 20 degrees each."""


@full_precision
@torch.no_grad()
def oriented_gradients(images: Tensor, cell: int) -> Tensor:
    """How strong the gradients of each orientation are in each cell, as vectors of length 1: (N, C, 9, rows, columns).

    Gradients are Sobel's, of each channel by itself, with borders mirrored. A pixel's magnitude goes to one of nine
    bins as a whole: bin 0 begins at a vertical gradient, bin 4 holds the horizontal one. Bins are summed over square
    cells, and those of each cell and channel are scaled to length 1, or stay 0 where nothing changes. Other histograms
    of oriented gradients (scikit-image, OpenCV) take central differences, the channel with the largest gradient and
    norms of blocks of cells.

    Args:
        images: (N, C, H, W), normalised as the network sees them; H and W are multiples of `cell`.
        cell: side of a cell, in pixels.

    Source: arXiv 2112.09133, section 3.2; authors' code facebookresearch/SlowFast at 287ec00, slowfast/models/
    operators.py, HOGLayerC.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    x = rows[..., :-2] - rows[..., 2:]
    y = columns[..., :-2, :] - columns[..., 2:, :]
    magnitude = torch.hypot(x, y)
    bins = (torch.atan2(x, y) * (BINS / math.pi)).floor().long() % BINS
    cells = [_summed(torch.where(bins == number, magnitude, 0.0), cell) for number in range(BINS)]
    return F.normalize(torch.stack(cells, dim=2), dim=2)


def _summed(pixels: Tensor, cell: int) -> Tensor:
    """(N, C, H, W) to the sums over cells, (N, C, H / cell, W / cell)."""
    height, width = pixels.shape[-2:]
    return pixels.unflatten(-1, (width // cell, cell)).sum(dim=-1).unflatten(-2, (height // cell, cell)).sum(dim=-2)


def cells_of_patches(gradients: Tensor, cells: int) -> Tensor:
    """(N, L, C * 9 * cells * cells): what `oriented_gradients` (N, C, 9, rows, columns) holds of each patch, which is
    `cells` cells high and wide; channel by channel, bin by bin, cell by cell."""
    n, channels, bins, rows, columns = gradients.shape
    patches = gradients.reshape(n, channels, bins, rows // cells, cells, columns // cells, cells)
    return patches.permute(0, 3, 5, 1, 2, 4, 6).reshape(n, (rows // cells) * (columns // cells), -1)


def cells_from_patches(patches: Tensor, cells: int, rows: int) -> Tensor:
    """Inverse of `cells_of_patches` for `rows` rows of patches: (N, C, 9, rows * cells, columns * cells)."""
    n, length, numbers = patches.shape
    channels = numbers // (BINS * cells**2)
    grid = patches.reshape(n, rows, length // rows, channels, BINS, cells, cells)
    return grid.permute(0, 3, 4, 1, 5, 2, 6).reshape(n, channels, BINS, rows * cells, -1)


@torch.no_grad()
def drawn_gradients(gradients: Tensor, cell: int) -> Tensor:
    """(N, 1, H, W), from 0 to 1: in each cell a line for each bin along the edge that its gradients stand on, the
    brighter the stronger they are; the mean over channels of what `oriented_gradients` returns."""
    angles = (torch.arange(BINS, device=gradients.device) + 0.5) * (math.pi / BINS)
    place = torch.arange(cell, device=gradients.device) - (cell - 1) / 2
    away = place[None, :, None] * angles.cos()[:, None, None] + place[None, None, :] * angles.sin()[:, None, None]
    lines = (1 - away.abs()).clamp(min=0.0)  # (9, cell, cell)
    drawn = torch.einsum("nbrc,bij->nricj", gradients.float().mean(dim=1).clamp(min=0.0), lines)
    n, rows, _, columns, _ = drawn.shape
    return drawn.reshape(n, 1, rows * cell, columns * cell).clamp(max=1.0)
