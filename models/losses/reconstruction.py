"""Reconstruct what was hidden: MAE, VideoMAE, masked spectrograms."""

from __future__ import annotations

from torch import Tensor

from headrace.models.losses.precision import full_precision


@full_precision
def normalize_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch (..., P) with mean 0 and variance 1 over its own numbers (variance of P - 1 degrees of freedom).

    Source: arXiv 2111.06377, section 4; authors' code facebookresearch/mae at efb2a80, models_mae.py, forward_loss.
    """
    mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + eps).sqrt()


@full_precision
def masked_patch_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The mean squared error over a patch, mean over the hidden patches of all samples.

    Args:
        prediction, target: (N, L, P).
        mask: bool (N, L), True where a patch was hidden from the encoder. The same number in each sample.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2111.06377, section 3; authors' code facebookresearch/mae at efb2a80, models_mae.py, forward_loss.
    """
    error = (prediction - target).square().mean(dim=-1)  # (N, L)
    weight = mask.to(error.dtype)
    return (error * weight).sum() / weight.sum()
