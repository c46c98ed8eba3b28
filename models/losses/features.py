"""Predict what a slower copy makes of the whole: data2vec."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision


@full_precision
@torch.no_grad()
def averaged_layers(layers: Sequence[Tensor]) -> Tensor:
    """data2vec's target: the mean of layers (..., D), each of which is normalised over its features before, and
    normalised again. Norms have no weights and add 1e-5 to variances.

    Source: arXiv 2202.03555, section 3.3; authors' code facebookresearch/data2vec_vision at af9a363,
    beit/engine_for_cyclical.py, with --post_target_layer_norm.
    """
    width = layers[0].shape[-1:]
    mean = torch.stack([F.layer_norm(layer, width) for layer in layers]).mean(dim=0)
    return F.layer_norm(mean, width)


@full_precision
def feature_loss(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth L1 of differences d, the mean over all numbers: `d^2 / (2 beta)` where |d| < beta, else `|d| - beta / 2`.

    Args:
        prediction, target: of one shape. The target gets no gradient.
        beta: above 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2202.03555, equation 3; authors' code facebookresearch/data2vec_vision at af9a363,
    beit/engine_for_cyclical.py.
    """
    return F.smooth_l1_loss(prediction, target.detach(), beta=beta)
