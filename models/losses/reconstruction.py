"""Reconstruct what was hidden: MAE, VideoMAE, masked spectrograms, AIM."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.models.losses.precision import full_precision
from headrace.models.parts.collectives import mean_over_ranks


@full_precision
def normalize_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch (..., P) with mean 0 and variance 1 over its own numbers (variance of P - 1 degrees of freedom).

    Source: arXiv 2111.06377, section 4; authors' code facebookresearch/mae at efb2a80, models_mae.py, forward_loss.
    """
    mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + eps).sqrt()


@full_precision
def normalize_channels(cubes: Tensor, channels: int, eps: float = 1e-6) -> Tensor:
    """Each channel of each cube (..., P * channels), channels fastest, with mean 0 and deviation 1 over its own P
    numbers (P - 1 degrees of freedom). `eps` is added to the deviation, not to the variance.

    Source: MCG-NJU/VideoMAE at 14ef8d8, engine_for_pretraining.py. The paper (arXiv 2203.12602) says no more than that
    cubes are normalised.
    """
    parts = cubes.unflatten(-1, (-1, channels))  # (..., P, channels)
    mean, deviation = parts.mean(dim=-2, keepdim=True), parts.var(dim=-2, keepdim=True).sqrt()
    return ((parts - mean) / (deviation + eps)).flatten(-2)


@full_precision
def with_statistics_of(normalized: Tensor, patches: Tensor, channels: int) -> Tensor:
    """Numbers of patches (..., P * channels), channels fastest, that were normalised channel by channel, with the mean
    and deviation of `patches`, which are of the same shape; `channels` is 1 where all were normalised together.

    What a picture of a prediction needs: a method that predicts normalised patches does not say how bright they are.
    """
    parts, like = (each.unflatten(-1, (-1, channels)) for each in (normalized, patches))
    deviation, mean = torch.std_mean(like, dim=-2, keepdim=True)
    return (parts * deviation + mean).flatten(-2)


@full_precision
def masked_patch_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean squared error over a patch, mean over the hidden patches of all samples.

    Args:
        prediction, target: (N, L, P).
        mask: bool (N, L), True where a patch was hidden from the encoder, the same number in each sample; None where
            all of these were.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2111.06377, section 3; authors' code facebookresearch/mae at efb2a80, models_mae.py, forward_loss.
    """
    error = (prediction - target).square().mean(dim=-1)  # (N, L)
    if mask is None:
        return error.mean()
    weight = mask.to(error.dtype)
    return (error * weight).sum() / weight.sum()


@full_precision
def next_patch_loss(prediction: Tensor, target: Tensor, prefix: Tensor) -> Tensor:
    """The mean squared error of each patch that was foretold at the one before it, mean over the patches of all samples
    that do not belong to the prefix.

    Their number is that of all ranks, each of which may have others, as in `masked_token_loss`.

    Args:
        prediction: (N, L, P), at each patch of the one that follows it; the last has no meaning.
        target: (N, L, P), patches row by row.
        prefix: int64 (N,), from 1 to L - 1: patches of each sample that are given.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2401.08541, equations 2 and 3 and section 3.3; the authors' code for training is not published.
    """
    error = (prediction[:, :-1] - target[:, 1:]).square().mean(dim=-1)  # (N, L - 1)
    foretold = torch.arange(1, target.shape[1], device=prefix.device) >= prefix[:, None]
    weight = foretold.to(error.dtype)
    return (error * weight).sum() / mean_over_ranks(weight.sum())
