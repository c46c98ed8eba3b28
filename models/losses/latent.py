"""Predict what another network makes of what is hidden: I-JEPA, V-JEPA, data2vec 2.0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision


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
    return _mean_of_the_first(F.smooth_l1_loss(prediction, target.detach(), reduction="none"), count)


@full_precision
def absolute_regression(prediction: Tensor, target: Tensor, count: Tensor) -> Tensor:
    """As `target_regression` with the absolute distance, `|d|`.

    Source: arXiv 2404.08471, section 3; facebookresearch/jepa at 51c59d5, app/vjepa/train.py, loss_fn.
    """
    return _mean_of_the_first((prediction - target.detach()).abs(), count)


def _mean_of_the_first(distance: Tensor, count: Tensor) -> Tensor:
    """Mean of (N, T, L, D) over a sample's first `count` (N, T) of L and over D, then over samples."""
    of_patches = distance.mean(dim=-1)
    meant = torch.arange(of_patches.shape[2], device=count.device) < count[..., None]
    return (torch.where(meant, of_patches, 0.0).sum(dim=(1, 2)) / count.sum(dim=1)).mean()


@torch.no_grad()
@full_precision
def contextual_targets(layers: Sequence[Tensor]) -> Tensor:
    """data2vec 2.0's targets: each channel of each layer with mean 0 and variance 1 over a sample's patches, the mean
    over layers, and of it each patch with mean 0 and variance 1 over its own numbers. Variances have 1e-5 added.

    Args:
        layers: tensors (N, L, D), at least one; L at least 2.

    Returns:
        (N, L, D), without gradient.

    Source: facebookresearch/fairseq at 3d262bb2, examples/data2vec/models/data2vec2.py, make_targets.
    """
    normal = [F.instance_norm(layer.transpose(1, 2)).transpose(1, 2) for layer in layers]
    mean = torch.stack(normal).mean(dim=0)
    return F.layer_norm(mean, mean.shape[-1:])


@full_precision
def scaled_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """The squared distance over the root of D, mean over rows. The target gets no gradient.

    Args:
        prediction, target: (..., D).

    Returns:
        float32 scalar (float64 for float64).

    Source: facebookresearch/fairseq at 3d262bb2, examples/data2vec/models/data2vec2.py, d2v_loss, whose sum over rows
    is divided by their number.
    """
    return (prediction - target.detach()).square().sum(dim=-1).mean() / prediction.shape[-1] ** 0.5
