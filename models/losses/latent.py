"""Predict what another network makes of what is hidden: I-JEPA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses.precision import full_precision


@full_precision
def target_regression(prediction: Tensor, target: Tensor, count: Tensor) -> Tensor:
    """The smooth L1 distance (`d * d / 2` below 1, `|d| - 1 / 2` above), mean over a sample's target patches and their
    numbers, then over samples. The target gets no gradient.

    The authors' targets have one size in a batch, so that theirs is the mean over all patches as well.

    Args:
        prediction, target: (N, T, L, D), patches of T targets of each sample.
        count: int64 (N, T), at least 1: how many of a target's patches are meant, the first ones.

    Returns:
        float32 scalar (float64 for float64).

    Source: facebookresearch/ijepa at 52c1ae9, src/train.py, loss_fn. The paper (arXiv 2301.08243, equation 1) has the
    squared distance.
    """
    distance = F.smooth_l1_loss(prediction, target.detach(), reduction="none").mean(dim=-1)  # (N, T, L)
    meant = torch.arange(distance.shape[2], device=count.device) < count[..., None]
    of_sample = torch.where(meant, distance, 0.0).sum(dim=(1, 2)) / count.sum(dim=1)
    return of_sample.mean()
