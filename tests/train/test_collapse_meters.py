"""Meters of collapse beside slow loops, with known values, and of a method on real digits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.models.parts.meters import rank_me, spread
from headrace.shards import ShardSet
from headrace.train import RunError
from headrace.train.probes.meters import Spread, alignment, collapse_meters, lidar, uniformity
from tests.models.tiny_methods import tiny


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_lidar(features: Tensor) -> float:
    """arXiv 2312.04000 with scipy's generalised eigenvalues, image by image."""
    from scipy.linalg import eigh

    x = features.double().numpy()
    n, q, d = x.shape
    grand = x.reshape(-1, d).mean(0)
    between, within = np.zeros((d, d)), 1e-4 * np.eye(d)
    for image in x:
        between += np.outer(image.mean(0) - grand, image.mean(0) - grand) / (n - 1)
        for view in image:
            within += np.outer(view - image.mean(0), view - image.mean(0)) / (n * (q - 1))
    values = eigh(between, within, eigvals_only=True).clip(0)
    return math.exp(-sum((p + 1e-8) * math.log(p + 1e-8) for p in values / values.sum()))


def slow_alignment(features: Tensor) -> float:
    found = []
    for image in torch.nn.functional.normalize(features.double(), dim=2):
        found += [float((a - b).square().sum()) for i, a in enumerate(image) for b in image[:i]]
    return sum(found) / len(found)


def slow_uniformity(features: Tensor) -> float:
    rows = torch.nn.functional.normalize(features.double(), dim=1)
    pairs = [math.exp(-2 * float((a - b).square().sum())) for i, a in enumerate(rows) for b in rows[:i]]
    return math.log(sum(pairs) / len(pairs))


def test_they_are_what_slow_loops_say() -> None:
    features = normal(12, 1, 6) * torch.tensor([3.0, 1, 1, 0.3, 0.1, 0.0]) + 0.2 * normal(12, 4, 6, seed=1)
    assert lidar(features) == pytest.approx(slow_lidar(features), rel=1e-9)
    assert alignment(features) == pytest.approx(slow_alignment(features), rel=1e-9)
    assert uniformity(features[:, 0]) == pytest.approx(slow_uniformity(features[:, 0]), rel=1e-9)


@pytest.mark.parametrize("shape", [(60, 8), (10, 24)])
def test_parts_of_a_set_have_the_rank_and_the_spread_of_the_whole(shape: tuple[int, int]) -> None:
    features = normal(*shape) * torch.logspace(0, -3, shape[1]) + 0.1
    parts = Spread()
    for part in features.split(7):
        parts.add(part)
    assert parts.rows == shape[0]
    assert parts.rank_me() == pytest.approx(float(rank_me(features)), rel=1e-6)
    assert parts.deviation() == pytest.approx(float(spread(features)) * shape[1] ** 0.5, rel=1e-5)


def test_known_values() -> None:
    many = Spread()
    many.add(normal(20_000, 32))
    assert many.rank_me() == pytest.approx(32, rel=0.02)
    assert many.deviation() == pytest.approx(1, rel=0.01)
    many.add(normal(20_000, 32))  # once more: nothing changes
    assert many.rank_me() == pytest.approx(32, rel=0.02)
    line = Spread()
    line.add(normal(300, 1) * normal(1, 32))
    assert line.rank_me() == pytest.approx(1, abs=1e-3)
    same = normal(1, 16).repeat(50, 1)
    assert uniformity(same) == pytest.approx(0, abs=1e-9)
    assert uniformity(normal(3000, 128)) == pytest.approx(-4 + 8 / 128, abs=0.02)
    assert alignment(same[:, None].repeat(1, 3, 1)) == pytest.approx(0, abs=1e-9)
    assert alignment(normal(2000, 2, 64)) == pytest.approx(2, rel=0.02)


def test_lidar_counts_directions_that_tell_images_apart() -> None:
    """Three of ten here; and noise that has nothing to do with images is near the maximum."""
    apart = torch.cat([10 * normal(400, 1, 3), torch.zeros(400, 1, 7)], dim=2) + 0.1 * normal(400, 5, 10, seed=1)
    assert lidar(apart) == pytest.approx(3, rel=0.02)
    assert lidar(normal(400, 5, 10)) == pytest.approx(10, rel=0.02)


@pytest.fixture(scope="module")
def found(digits_webdataset: ShardSet) -> Any:
    return collapse_meters(tiny("simclr"), digits_webdataset, images=40, views=4, threads=1)


def test_a_method_is_measured_on_its_own_views(digits_webdataset: ShardSet, found: Any) -> None:
    method = tiny("simclr")
    assert (found.samples, found.images, found.views, found.features) == (200, 40, 4, method.feature_dim)
    assert 1 < found.rank_me.value < method.feature_dim
    assert 1 < found.lidar.value < method.feature_dim
    assert 0 < found.alignment.value < 2
    assert -4 < found.uniformity.value < 0
    assert 0 < found.deviation.value < 1
    for meter in (found.rank_me, found.lidar, found.alignment, found.uniformity, found.deviation):
        assert meter.low < meter.value < meter.high
    assert method.training
    again = collapse_meters(method, digits_webdataset, images=40, views=4, threads=1)
    assert again == found
    assert method.training
    few = collapse_meters(method, digits_webdataset, samples=50, images=7, views=2, threads=1)
    assert (few.samples, few.images) == (50, 7)


def test_what_collapses_is_seen(digits_webdataset: ShardSet, found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny("simclr")
    whole = method.encode
    direction = torch.linspace(1, 2, method.feature_dim)
    monkeypatch.setattr(method, "encode", lambda batch: whole(batch).mean(dim=1, keepdim=True) * direction)
    line = collapse_meters(method, digits_webdataset, images=40, views=4, threads=1)
    assert line.rank_me.value == pytest.approx(1, abs=1e-3)
    assert line.deviation.value == pytest.approx(0, abs=1e-3)
    assert line.uniformity.value == pytest.approx(0, abs=1e-3)
    assert line.alignment.value < 1e-6 < found.alignment.value
    assert line.lidar.value < found.lidar.value


@pytest.mark.peer("tokenizers", "transformers")
def test_towers_of_images_are_measured_too(captions_webdataset: ShardSet) -> None:
    found = collapse_meters(tiny("clip"), captions_webdataset, samples=40, images=10, views=2, threads=1)
    assert (found.samples, found.images, found.features) == (40, 10, tiny("clip").feature_dim)


def test_what_cannot_be_measured_is_refused(digits_webdataset: ShardSet) -> None:
    with pytest.raises(ValueError, match="views must be at least 2, got 1"):
        collapse_meters(tiny("simclr"), digits_webdataset, views=1)
    with pytest.raises(RunError, match="BERT encodes texts, and this works on single images only"):
        collapse_meters(tiny("bert"), digits_webdataset)
