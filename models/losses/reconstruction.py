"""Reconstruct what was hidden, or all of it: MAE, VideoMAE, Audio-MAE, SimMIM, AIM, autoencoders, inpainting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import mean_over_ranks
from headrace.models.parts.precision import full_precision


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
def masked_pixel_loss(prediction: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """SimMIM's loss: the sum of absolute errors over hidden pixels, by their number + 1e-5 and the number of channels.

    Args:
        prediction, images: (N, C, H, W).
        mask: bool (N, H, W), True where a pixel was hidden.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2111.09886, equation 2; authors' code microsoft/SimMIM at d3e29bc, models/simmim.py, SimMIM.forward.
    """
    error = (prediction - images).abs()
    weight = mask[:, None].to(error.dtype)
    return (error * weight).sum() / (weight.sum() + 1e-5) / images.shape[1]


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


@full_precision
def pixel_cross_entropy(logits: Tensor, levels: Tensor) -> Tensor:
    """`-sum [x log z + (1 - x) log(1 - z)]` over the inputs of a sample, z being logistic functions of `logits`, mean
    over samples. Where z = x it is the entropy of the levels, which is not 0.

    Args:
        logits: (N, ...).
        levels: (N, ...), x from 0 to 1.

    Returns:
        float32 scalar (float64 for float64).

    Source: Vincent et al., ICML 2008, section 2.2; lisa-lab/DeepLearningTutorials at 11c4651, code/dA.py.
    """
    return F.binary_cross_entropy_with_logits(logits, levels, reduction="sum") / len(logits)


@full_precision
def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of N(mean, variance) from N(0, 1), `(mean^2 + variance - 1 - log variance) / 2`,
    summed over the dimensions of a sample, mean over samples.

    Args:
        mean, log_variance: (N, D).

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1312.6114, appendix B.
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum() / (2 * len(mean))


@full_precision
def weighted_squared_error(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The mean over all numbers of the squared error, in which each place counts `weight` times.

    Args:
        prediction, target: (N, C, H, W).
        weight: (H, W).

    Returns:
        float32 scalar (float64 for float64).

    Source: pathak22/context-encoder at 68abd11, train.lua, fGx, whose gradient this is; what it logs is not weighted.
    """
    return (weight * (prediction - target).square()).mean()
