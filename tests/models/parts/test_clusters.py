"""Whitening, k-means and Sobel's filters."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

from headrace.models.parts import clusters
from headrace.models.parts.clusters import (
    THREADS,
    kmeans,
    kmeans_centres,
    nearest_centres,
    spherical_kmeans,
    unit_whitened,
    whiten,
)
from headrace.models.parts.sobel import Sobel


def correlated(samples: int = 300, dims: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(samples, dims, generator=generator) @ torch.randn(dims, dims, generator=generator)
    return mixed + 5 * torch.randn(dims, generator=generator)


def test_whitened_features_have_mean_0_and_identity_covariance() -> None:
    points = whiten(correlated().split(70), 8)
    assert points.dtype == torch.float32
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(points.T @ points / len(points), torch.eye(8), rtol=0, atol=1e-4)


def test_whitening_is_scikit_learns_but_for_signs_and_order() -> None:
    features = correlated()
    theirs = torch.from_numpy(PCA(8, whiten=True).fit_transform(features.double().numpy())).float()
    theirs = theirs * (len(features) / (len(features) - 1)) ** 0.5  # they divide by N - 1
    torch.testing.assert_close(whiten([features], 8).flip(1).abs(), theirs.abs(), rtol=1e-3, atol=1e-3)


def test_directions_without_variance_are_0() -> None:
    features = correlated(dims=4) @ torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    points = whiten([features], 8)
    variances = points.square().mean(dim=0)
    torch.testing.assert_close(variances, torch.tensor([0.0] * 4 + [1.0] * 4), rtol=0, atol=1e-3)
    assert torch.equal(whiten([torch.ones(5, 3)], 2), torch.zeros(5, 2))
    assert unit_whitened([torch.ones(5, 3)], 2).isfinite().all()


def test_lengths_are_1() -> None:
    torch.testing.assert_close(unit_whitened([correlated()], 8).norm(dim=1), torch.ones(300))


def test_kmeans_finds_what_is_far_apart_whatever_the_order() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.randint(0, 2, (100,), generator=generator)
    points = torch.randn(100, 4, generator=generator) + 100 * truth[:, None]
    found = kmeans(points, 2, iterations=20, seed=3)
    assert found.dtype == torch.int64
    assert torch.equal(found, truth) or torch.equal(found, 1 - truth)


def test_kmeans_is_a_function_of_its_seed() -> None:
    points = correlated(256 * (THREADS + 3))  # 256 points are a thread's chunk
    first, second, other = (kmeans(points, 20, iterations=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.filterwarnings("error")
def test_clusters_without_points_are_left_empty() -> None:
    points = torch.eye(3).repeat(4, 1)
    found = kmeans(points, 5, iterations=20, seed=0)
    assert len(found.unique()) == 3
    assert torch.equal(found[:3].repeat(4), found)


def test_centres_are_where_points_lie_and_a_function_of_the_seed() -> None:
    """Of points about four places, in parts of the points."""
    generator = torch.Generator().manual_seed(2)
    places = 20 * torch.randn(4, 5, generator=generator)
    truth = torch.randint(0, 4, (4000,), generator=generator)
    points = torch.randn(4000, 5, generator=generator) + places[truth]
    settings = {"batch": 500, "restarts": 3, "iterations": 10}
    centres = kmeans_centres(points, 4, seed=1, **settings)
    assert (centres.shape, centres.dtype) == ((4, 5), torch.float32)
    nearest = torch.cdist(places, centres)
    assert nearest.argmin(dim=1).sort().values.tolist() == [0, 1, 2, 3]
    assert nearest.amin(dim=1).max() < 0.5
    assert torch.equal(centres, kmeans_centres(points, 4, seed=1, **settings))
    assert not torch.equal(centres, kmeans_centres(points, 4, seed=2, **settings))


def test_the_nearest_centre_is_that_of_least_distance() -> None:
    points, centres = torch.randn(3, 7, 5), torch.randn(6, 5)
    assert torch.equal(nearest_centres(points, centres), torch.cdist(points, centres.expand(3, 6, 5)).argmin(dim=2))


def test_sobel_is_the_authors_two_convolutions() -> None:
    """facebookresearch/deepcluster at 2d1927e, models/alexnet.py."""
    grey, slopes = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1)
    with torch.no_grad():
        grey.weight.fill_(1 / 3)
        slopes.weight[0, 0].copy_(torch.tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]]))
        slopes.weight[1, 0].copy_(torch.tensor([[1, 2, 1], [0, 0, 0], [-1, -2, -1]]))
        for layer in (grey, slopes):
            assert layer.bias is not None
            layer.bias.zero_()
        x = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(Sobel()(x), slopes(grey(x)), rtol=1e-5, atol=1e-5)
    assert not list(Sobel().parameters())


def on_the_sphere(samples: int = 200, dims: int = 6) -> Tensor:
    return F.normalize(correlated(samples, dims) - correlated(samples, dims).mean(dim=0), dim=1)


def test_spherical_kmeans_is_the_authors_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ROWS", 70)
    points = on_the_sphere()
    centres = points[torch.randperm(200, generator=torch.Generator().manual_seed(3))[:9]].double()
    for _ in range(4):
        found = [max(range(9), key=lambda k, p=p: float(p.double() @ centres[k])) for p in points]
        for k in range(9):
            own = [p.double() for p, of in zip(points, found, strict=True) if of == k]
            if own:
                mean = sum(own) / len(own)
                centres[k] = mean / mean.norm()
    found = [max(range(9), key=lambda k, p=p: float(p.double() @ centres[k])) for p in points]
    ours, theirs = spherical_kmeans(points, 9, iterations=4, seed=3)
    assert theirs.tolist() == found
    torch.testing.assert_close(ours.double(), centres, rtol=0, atol=1e-5)


def test_spherical_centres_have_length_1_and_their_objective_never_falls() -> None:
    points, objectives = on_the_sphere(), []
    for iterations in range(8):
        centres, found = spherical_kmeans(points, 9, iterations=iterations, seed=0)
        torch.testing.assert_close(centres.norm(dim=1), torch.ones(9))
        objectives.append((points * centres[found]).sum().item())
    assert all(later >= earlier - 1e-4 for earlier, later in pairwise(objectives))
    assert objectives[-1] > objectives[0] + 1


def test_a_spherical_centre_without_points_stays() -> None:
    points = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    centres, found = spherical_kmeans(points, 3, iterations=2, seed=0)
    assert sorted(centres.tolist()) == sorted(points.tolist())
    assert len(found.unique()) == 2  # of two equal centres one is empty
