"""Frames that are near in time are near each other: time-contrastive networks."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.models.parts.precision import full_precision


@full_precision
def time_contrastive_loss(
    embeddings: Tensor, times: Tensor, positive_radius: int, negative_radius: int, margin: float
) -> Tensor:
    """Triplets of frames of one video, each with a semi-hard negative.

    With squared distances d: every ordered pair (a, p) of different frames at most `positive_radius` apart in time
    costs `max(0, margin + d(a, p) - d(a, n))`, where n is, of the frames of the same video that are more than
    `negative_radius` from a, the nearest one that is farther from a than p, or, where there is none, the farthest one.
    The mean over the pairs of a video, and over videos. An anchor without any frame that far away has 0 in the place of
    d(a, n).

    Args:
        embeddings: (N, T, D) of T frames of each of N videos.
        times: int (N, T), numbers of the frames.
        positive_radius, negative_radius: in frames of the video; the second is the larger one.
        margin: above 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1704.06888, section 3.2; authors' code tensorflow/models at ebafe28, research/tcn/estimators/
    svtcn_loss.py.
    """
    if embeddings.ndim != 3 or times.shape != embeddings.shape[:2]:
        shapes = f"{tuple(embeddings.shape)} and {tuple(times.shape)}"
        raise ValueError(f"time_contrastive_loss needs (N, T, D) and (N, T), got {shapes}")
    if not 0 < positive_radius < negative_radius:
        raise ValueError(f"time_contrastive_loss needs 0 < {positive_radius} < {negative_radius}")
    differences = embeddings[:, :, None] - embeddings[:, None]  # (N, T, T, D)
    distance = differences.square().sum(dim=-1)
    apart = (times[:, :, None] - times[:, None]).abs()
    itself = torch.eye(times.shape[1], dtype=torch.bool, device=times.device)
    positive = (apart <= positive_radius) & ~itself
    negative = apart > negative_radius
    # Of anchor a, positive p and negative n: (N, a, p, n).
    farther = negative[:, :, None] & (distance[:, :, None] > distance[:, :, :, None])
    nearest = distance[:, :, None].masked_fill(~farther, float("inf")).amin(dim=3)
    farthest = distance.masked_fill(~negative, 0.0).amax(dim=2, keepdim=True)
    semi_hard = torch.where(farther.any(dim=3), nearest, farthest)
    costs = (margin + distance - semi_hard).clamp(min=0) * positive
    return (costs.sum(dim=(1, 2)) / positive.sum(dim=(1, 2)).clamp(min=1)).mean()
