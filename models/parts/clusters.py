"""Groups of features that look alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

THREADS = 2
"""Of scikit-learn's k-means. More add up a centre's samples in an order that changes from run to run."""
NO_VARIANCE = 1e-10
"""Share of the largest variance below which a direction is rounding noise: blown up, it would rule the distances."""


@torch.no_grad()
def whiten(features: Sequence[Tensor], dims: int) -> Tensor:
    """The principal components of features, each scaled to variance 1.

    Args:
        features: parts (n, D) of the N features.
        dims: components to keep, those with the largest variance; at most D.

    Returns:
        float32 (N, dims) with mean 0. Components along which the features do not vary are 0.
    """
    count = sum(len(part) for part in features)
    mean = torch.stack([part.double().sum(dim=0) for part in features]).sum(dim=0) / count
    covariance = features[0].new_zeros(len(mean), len(mean), dtype=torch.float64)
    for part in features:
        centred = part.double() - mean
        covariance.addmm_(centred.T, centred, alpha=1 / count)
    variances, directions = torch.linalg.eigh(covariance)  # ascending
    variances, directions = variances[-dims:], directions[:, -dims:]
    scale = torch.where(variances > NO_VARIANCE * variances[-1], variances.rsqrt(), 0.0)
    return torch.cat([((part.double() - mean) @ (directions * scale)).float() for part in features])


def unit_whitened(features: Sequence[Tensor], dims: int) -> Tensor:
    """`whiten`, and then every sample at length 1: float32 (N, dims).

    Source: facebookresearch/deepcluster at 2d1927e, clustering.py, preprocess_features.
    """
    return F.normalize(whiten(features, dims), dim=1)


def kmeans(points: Tensor, clusters: int, *, iterations: int, seed: int) -> Tensor:
    """The cluster of each point, by Lloyd's algorithm from `clusters` random points.

    A cluster that runs empty goes on from the point that is farthest from its centre; where there are fewer distinct
    points than clusters some stay empty. The same arguments give the same clusters.

    Args:
        points: (N, D), N at least `clusters`.
        iterations: at most.
        seed: for the points that it starts from, below 2**32.

    Returns:
        int64 (N,), on the CPU.
    """
    algorithm = KMeans(clusters, init="random", n_init=1, max_iter=iterations, tol=0.0, random_state=seed)
    with threadpool_limits(THREADS), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct points than clusters
        return torch.from_numpy(algorithm.fit_predict(points.cpu().numpy())).long()


ROWS = 8192
"""Points that are compared with all centres at a time."""


@torch.no_grad()
def spherical_kmeans(points: Tensor, clusters: int, *, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Centres of length 1 and the cluster of each point, by the largest product, from `clusters` random points.

    A centre without points stays where it is. The same arguments give the same clusters.

    Args:
        points: (N, D), rows of length 1, N at least `clusters`.
        iterations: steps of the centres, after which points are assigned once more.
        seed: for the points that it starts from.

    Returns:
        (clusters, D) and int64 (N,), on the device of the points.

    Source: facebookresearch/swav at 06b1b7c, main_deepclusterv2.py, cluster_memory.
    """
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    centres = points[order[:clusters].to(points.device)]
    for _ in range(iterations):
        sums = torch.zeros_like(centres)
        for part, found in _nearest(points, centres):
            sums += F.one_hot(found, clusters).to(part.dtype).T @ part  # in a fixed order, unlike scattered sums
        centres = torch.where(sums.any(dim=1, keepdim=True), F.normalize(sums, dim=1), centres)
    return centres, torch.cat([found for _, found in _nearest(points, centres)])


def _nearest(points: Tensor, centres: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of the points, and the centre (n,) of each."""
    for part in points.split(ROWS):
        yield part, (part @ centres.T).argmax(dim=1)


def kmeans_centres(points: Tensor, clusters: int, *, batch: int, restarts: int, iterations: int, seed: int) -> Tensor:
    """Centres (clusters, D), float32 on the CPU, by k-means on parts of the points, from the best of `restarts` choices
    of first centres by k-means++. The same arguments give the same centres.

    Args:
        points: (N, D), N at least `clusters`.
        batch: points of a part.
        restarts: choices of first centres.
        iterations: passes over all points, at most; it ends when a hundred parts in a row bring nothing.
        seed: below 2**32.

    Source: facebookresearch/fairseq at 3d262bb, examples/hubert/simple_kmeans/learn_kmeans.py.
    """
    algorithm = MiniBatchKMeans(
        clusters, init="k-means++", n_init=restarts, max_iter=iterations, batch_size=batch, compute_labels=False,
        tol=0.0, max_no_improvement=100, reassignment_ratio=0.0, random_state=seed,
    )  # fmt: skip
    with threadpool_limits(THREADS), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        algorithm.fit(points.float().cpu().numpy())
    return torch.from_numpy(algorithm.cluster_centers_).float()


def nearest_centres(points: Tensor, centres: Tensor) -> Tensor:
    """int64 (...,): the nearest of centres (K, D) to each point (..., D)."""
    scores = points @ centres.T - centres.square().sum(dim=1) / 2
    return scores.argmax(dim=-1)
