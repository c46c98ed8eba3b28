"""CIE Lab back to sRGB, and the bins of its colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.images.colour import D65, XYZ_OF_RGB

_RGB_OF_XYZ: list[list[float]] = np.linalg.inv(np.array(XYZ_OF_RGB)).tolist()

GRID = 10
"""Steps of a and b between bins."""
_B_OF_A = {
    -90: (50, 90),
    -80: (20, 90),
    -70: (0, 90),
    -60: (-20, 90),
    -50: (-30, 100),
    -40: (-40, 100),
    -30: (-50, 100),
    -20: (-50, 100),
    -10: (-60, 100),
    0: (-70, 100),
    10: (-80, 90),
    20: (-80, 90),
    30: (-90, 90),
    40: (-100, 90),
    50: (-100, 80),
    60: (-110, 80),
    70: (-110, 80),
    80: (-110, 70),
    90: (-110, 70),
    100: (-90, 0),
}
"""For each a the smallest and the largest b of a bin."""


def lab_to_rgb(lab: Tensor) -> Tensor:
    """CIE Lab (..., 3, H, W), white point D65 (2 degrees), to sRGB levels from 0 to 1, float32; colours that sRGB lacks
    are cut to its limits.

    The inverse of `headrace.pipeline.batch.rgb_to_lab`, with the constants of `skimage.color.lab2rgb`.
    """
    lightness, a, b = lab.float().unbind(-3)
    y = (lightness + 16) / 116
    curved = y + a / 500, y, (y - b / 200).clamp(min=0.0)
    xyz = [
        white * torch.where(t > 0.2068966, t**3, (t - 16 / 116) / 7.787) for t, white in zip(curved, D65, strict=True)
    ]
    linear = torch.stack([sum(w * x for w, x in zip(row, xyz, strict=True)) for row in _RGB_OF_XYZ], dim=-3)  # type: ignore[misc]
    # Both branches are calculated: the power must stay finite where it is not taken.
    rgb = torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return rgb.clamp(0, 1)


def colour_bins() -> Tensor:
    """float32 (313, 2): a and b of the bins on the grid, by a and then by b.

    Source: arXiv 1603.08511; pts_in_hull of junyanz/interactive-deep-colorization at 0ee4d11. Which ones belong to it
    does not follow from sRGB, whose colours fall into 262.
    """
    return torch.tensor([(a, b) for a, (low, high) in _B_OF_A.items() for b in range(low, high + 1, GRID)]).float()


class SoftBins(NamedTuple):
    """To which bins colours belong, and how much."""

    nearest: Tensor
    """int64 (..., K): the K nearest bins, the nearest first."""
    share: Tensor
    """float32 (..., K), rows that add up to 1."""


def soft_bins(ab: Tensor, bins: Tensor, *, neighbours: int, deviation: float) -> SoftBins:
    """Colours (..., 2) among the nearest bins (Q, 2), by a Gaussian of their distance.

    Source: richzhang/colorization at 4aa459f, resources/caffe_traininglayers.py, NNEncode.
    """
    squares = (ab[..., None, :] - bins).square().sum(dim=-1)  # (..., Q)
    found, nearest = squares.topk(neighbours, dim=-1, largest=False)
    return SoftBins(nearest, torch.softmax(-found / (2 * deviation**2), dim=-1))


def spread(soft: SoftBins, bins: int) -> Tensor:
    """float32 (..., bins): the shares of all bins."""
    whole = soft.share.new_zeros(*soft.share.shape[:-1], bins)
    return whole.scatter(-1, soft.nearest, soft.share)


def rarity_weights(prior: Tensor, *, uniform: float, power: float) -> Tensor:
    """float32 (Q,): what each bin weighs, `((1 - uniform) p + uniform / U) ** -power` where U bins have a prior p above
    0, scaled so that `sum p w` = 1. A bin without any weighs as much as the rarest.

    Source: arXiv 1603.08511, section 2.2; richzhang/colorization at 4aa459f, resources/caffe_traininglayers.py,
    PriorFactor.
    """
    seen = prior > 0
    mixed = (1 - uniform) * prior + uniform * seen / seen.sum()
    rarest = mixed.where(seen, torch.inf).min()
    weights = mixed.where(seen, rarest) ** -power
    return weights / (prior * weights).sum()


def annealed_mean(logits: Tensor, bins: Tensor, temperature: float) -> Tensor:
    """float32 (B, 2, H, W): the mean colour of the softmax of logits (B, Q, H, W) over the temperature, which is the
    mean of the distribution at 1 and its mode near 0.

    Source: arXiv 1603.08511, section 2.3.
    """
    return torch.einsum("bqhw,qc->bchw", torch.softmax(logits.float() / temperature, dim=1), bins)
