"""Fixed positions of patches and cubes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_cosine(rows: int, columns: int, dim: int, *, row_first: bool = False) -> Tensor:
    """float32 (rows * columns, dim): the first half of the numbers of a patch encodes its column, the second its row,
    or the other way round with `row_first`, each as sines and then cosines of dim / 4 frequencies between 1 and
    1/10,000.

    Source: facebookresearch/mae at efb2a80, util/pos_embed.py, in whose grid the column comes first;
    facebookresearch/moco-v3 at c349e6e, vits.py, in whose the row does.
    """
    if dim % 4:
        raise ValueError(f"sine_cosine needs a dimension that is a multiple of 4, got {dim}")
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = (row, column) if row_first else (column, row)
    angles = [place.flatten()[:, None].double() * frequencies for place in places]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()


def sine_cosine_line(length: int, dim: int) -> Tensor:
    """float32 (length, dim): one number of place after the other, sines and cosines in turn, of dim / 2 frequencies
    between 1 and 1/10,000. Of a grid's places it knows their number alone: rows, columns and time are not told apart.

    Source: arXiv 2203.12602; MCG-NJU/VideoMAE at 14ef8d8, modeling_finetune.py, get_sinusoid_encoding_table.
    """
    if dim % 2:
        raise ValueError(f"sine_cosine_line needs a dimension that is a multiple of 2, got {dim}")
    frequencies = 10000.0 ** (2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def sine_cosine_volume(times: int, rows: int, columns: int, dim: int) -> Tensor:
    """float32 (times * rows * columns, dim): a third of the numbers of a cube encodes its time, one its row, one its
    column, each as sines and then cosines of frequencies between 1 and 1/10,000. Thirds are rounded up to even, and
    what is too much is left off at the end.

    Source: arXiv 2404.08471; facebookresearch/jepa at 51c59d5, src/models/utils/pos_embs.py, get_3d_sincos_pos_embed
    with `uniform_power`.
    """
    half = math.ceil(dim / 6)
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    places = torch.meshgrid(torch.arange(times), torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None].double() * frequencies for place in places]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)[:, :dim].float()
