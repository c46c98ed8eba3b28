"""Say which colour a place has: colourisation."""

from __future__ import annotations

from torch import Tensor

from headrace.models.parts.precision import full_precision


@full_precision
def soft_bin_loss(logits: Tensor, nearest: Tensor, share: Tensor, weight: Tensor) -> Tensor:
    """The cross entropy of a distribution over Q bins, of which K are above 0, mean over all places. Its gradient is of
    the mean in which each place counts `weight` times; its value is not.

    Args:
        logits: (N, Q, H, W).
        nearest: int64 (N, H, W, K), different bins.
        share: (N, H, W, K), what each of these has; rows add up to 1.
        weight: (N, H, W), without gradient.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1603.08511, equation 2; richzhang/colorization at 4aa459f, models/colorization_train_val_v2.prototxt
    and resources/caffe_traininglayers.py, ClassRebalanceMultLayer. What Caffe's layer divides by was not found.
    """
    scores = logits.movedim(1, -1)  # (N, H, W, Q)
    losses = scores.logsumexp(dim=-1) - (scores.gather(-1, nearest) * share).sum(dim=-1)
    weighted = (weight * losses).mean()
    return weighted + (losses.mean() - weighted).detach()


@full_precision
def colour_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance of two colours, mean over places.

    Args:
        prediction, target: (N, 2, H, W).

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1603.08511, equation 1, which sums over places.
    """
    return (prediction - target).square().sum(dim=1).mean() / 2
