"""Put parts in their places: the order of blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.models.parts.precision import full_precision


@full_precision
def placements(scores: Tensor, iterations: int, regularizer: float) -> Tensor:
    """Probabilities of places, nearly doubly stochastic, from scores.

    A softmax over all V x V entries; then `iterations` times, with `regularizer` added to each entry, rows are divided
    by their sums and, with `regularizer` added again, columns by theirs.

    Args:
        scores: (N, V, V): of V parts and V places.
        iterations: above 0.
        regularizer: above 0, so that no entry is 0.

    Returns:
        (N, V, V) in float32 (float64 for float64); columns add up to 1, rows nearly.

    Source: arXiv 1704.02729, section 3.2; rfsantacruz/deep-perm-net at d3dccc3, models/train_val_grid3.prototxt and
    caffe-perm/src/caffe/layers/sinkhorn_norm_layer.cu.
    """
    p = torch.softmax(scores.flatten(1), dim=1).view(scores.shape)
    for _ in range(iterations):
        for axis in (2, 1):
            p = p + regularizer
            p = p / p.sum(dim=axis, keepdim=True)
    return p


@full_precision
def placement_loss(probabilities: Tensor, places: Tensor) -> Tensor:
    """`-log p` of each part's place, summed over the V parts, mean over N.

    Args:
        probabilities: (N, V, V) of `placements`.
        places: int64 (N, V).

    Returns:
        float32 scalar (float64 for float64); `V ln V` for equal probabilities.

    Source: arXiv 1704.02729, section 3.3; rfsantacruz/deep-perm-net at d3dccc3,
    caffe-perm/src/caffe/layers/multilabel_multinomial_logistic_loss_layer.cpp.
    """
    own = probabilities.gather(2, places[:, :, None]).squeeze(2)  # (N, V)
    return -own.clamp_min(1e-20).log().sum(dim=1).mean()
