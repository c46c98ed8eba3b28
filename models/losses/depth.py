"""How well a picture is explained by another one through depth and motion: monodepth2, SfMLearner."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision

SIMILARITY_SHARE = 0.85
"""Of the structural part of the photometric error."""
TIE_NOISE = 1e-5
"""Deviation of what is added to errors of sources that were not moved, so that equal ones are not always chosen."""


@full_precision
def structural_dissimilarity(first: Tensor, second: Tensor) -> Tensor:
    """(N, C, H, W): (1 - SSIM) / 2 of the 3 x 3 pixels around each, the border reflected, kept in [0, 1].

    Args:
        first, second: (N, C, H, W), levels from 0 to 1.

    Source: arXiv 1806.01260; nianticlabs/monodepth2 at b676244, layers.py, SSIM.
    """
    c1, c2 = 0.01**2, 0.03**2
    x, y = (F.pad(each, (1, 1, 1, 1), mode="reflect") for each in (first, second))
    mean_x, mean_y = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    variance_x = F.avg_pool2d(x.square(), 3, 1) - mean_x.square()
    variance_y = F.avg_pool2d(y.square(), 3, 1) - mean_y.square()
    covariance = F.avg_pool2d(x * y, 3, 1) - mean_x * mean_y
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return ((1 - above / below) / 2).clamp(0, 1)


@full_precision
def photometric_error(prediction: Tensor, target: Tensor, similarity: float) -> Tensor:
    """(N, H, W): of each pixel, mean over channels.

    Args:
        prediction, target: (N, C, H, W), levels from 0 to 1.
        similarity: share of the structural dissimilarity, `SIMILARITY_SHARE` in monodepth2; the rest is the absolute
            difference. 0 for SfMLearner.

    Source: nianticlabs/monodepth2 at b676244, trainer.py, compute_reprojection_loss.
    """
    absolute = (target - prediction).abs().mean(dim=1)
    if not similarity:
        return absolute
    return similarity * structural_dissimilarity(prediction, target).mean(dim=1) + (1 - similarity) * absolute


@full_precision
def least_error(moved: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over pixels of the smallest error of all sources, moved or not; and the share of pixels at which it is
    one of those that were moved: the others learn nothing (auto-mask).

    Ties are broken by noise of torch's default generator.

    Args:
        moved, still: (N, S, H, W), errors of S sources that were moved to where the target's camera is, and of the same
            as they are.

    Source: nianticlabs/monodepth2 at b676244, trainer.py, compute_losses.
    """
    noisy = still + TIE_NOISE * torch.randn_like(still)
    least, which = torch.cat([noisy, moved], dim=1).min(dim=1)
    return least.mean(), (which >= still.shape[1]).float().mean()


@full_precision
def edge_aware_smoothness(disparity: Tensor, images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring disparities, along rows and along columns, each less where the
    picture changes too. The disparity is taken as a multiple of its mean over the picture.

    Args:
        disparity: (N, 1, H, W), positive.
        images: (N, C, H, W), levels from 0 to 1.

    Source: nianticlabs/monodepth2 at b676244, layers.py, get_smooth_loss; trainer.py, compute_losses.
    """
    normal = disparity / (disparity.mean(dim=(2, 3), keepdim=True) + 1e-7)
    total = disparity.new_zeros(())
    for axis in (2, 3):
        change = normal.diff(dim=axis).abs()
        edge = images.diff(dim=axis).abs().mean(dim=1, keepdim=True)
        total = total + (change * (-edge).exp()).mean()
    return total


@full_precision
def curvature(disparity: Tensor) -> Tensor:
    """SfMLearner's smoothness: the sum over the four second differences (along columns, along rows, and the mixed one
    twice) of their mean absolute values.

    Args:
        disparity: (N, 1, H, W).

    Source: arXiv 1704.07813; tinghuiz/SfMLearner at 65f71f1, SfMLearner.py, compute_smooth_loss.
    """
    firsts = disparity.diff(dim=3), disparity.diff(dim=2)
    seconds = [first.diff(dim=axis) for first in firsts for axis in (2, 3)]
    return torch.stack([second.abs().mean() for second in seconds]).sum()
