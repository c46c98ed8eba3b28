"""What keeps features apart, or patches as alike as they were: KoLeo, Gram anchoring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.collectives import gather, rank
from headrace.models.parts.precision import full_precision

_EPS = 1e-8


@full_precision
def koleo_loss(features: Tensor, *, over_ranks: bool) -> Tensor:
    """KoLeo: samples lie far from the nearest other one, `-ln(|x - nearest(x) + e| + e)`, mean over N.

    x are the features at length 1, the nearest is that with the largest product, and e = 1e-8 keeps samples that
    coincide from an infinite loss.

    Args:
        features: (N, D), at least two samples, not normalised yet.
        over_ranks: whether the nearest is sought among the samples of all ranks, which have N each, with gradient to
            it, instead of this rank's, as DINOv2's code does.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 1806.03198, equation 2, and arXiv 2304.07193, section 4; authors' code facebookresearch/dinov2 at
    b8931f7, dinov2/loss/koleo_loss.py.
    """
    x = F.normalize(features, dim=1, eps=_EPS)
    others = gather(x) if over_ranks else x
    if len(others) < 2:
        raise ValueError(f"koleo_loss needs at least two samples, got {len(others)}")
    with torch.no_grad():
        own = torch.arange(len(x), device=x.device) + (rank() * len(x) if over_ranks else 0)
        nearest = (x @ others.T).scatter(1, own[:, None], -2.0).argmax(dim=1)
    return -(F.pairwise_distance(x, others[nearest], eps=_EPS) + _EPS).log().mean()


@full_precision
def gram_loss(student: Tensor, anchor: Tensor) -> Tensor:
    """Gram anchoring: of each image, patches are as alike as another network has them.

    The mean, over all pairs of patches and all images, of the squared difference of their cosines. The anchor gets no
    gradient.

    Args:
        student, anchor: (N, L, D) and (N, L, E) patches of the same images, not normalised yet.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2508.10104, equation 2; authors' code facebookresearch/dinov3 at 6876159, dinov3/loss/gram_loss.py, of
    each image by itself.
    """
    ours, theirs = (F.normalize(patches, dim=-1) for patches in (student, anchor.detach()))
    return F.mse_loss(ours @ ours.transpose(1, 2), theirs @ theirs.transpose(1, 2))
