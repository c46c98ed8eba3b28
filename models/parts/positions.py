"""Fixed positions of patches."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_cosine(rows: int, columns: int, dim: int) -> Tensor:
    """float32 (rows * columns, dim): the first half of the numbers of a patch encodes its column, the second its row,
    each as sines and then cosines of dim / 4 frequencies between 1 and 1/10,000.

    Source: facebookresearch/mae at efb2a80, util/pos_embed.py, in whose grid the column comes first.
    """
    if dim % 4:
        raise ValueError(f"sine_cosine needs a dimension that is a multiple of 4, got {dim}")
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None].double() * frequencies for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()
