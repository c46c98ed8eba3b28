"""Depth: the head and the loss by hand and by autograd, metrics by loops, and what the probe learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headrace.models.parts.backbones import BackboneConfig, build_backbone, tiny_resnet, tiny_vit
from headrace.pipeline import Normalize
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.train import ConfigError, RunError
from headrace.train.dense.depth import (
    METRICS,
    DepthConfig,
    DepthHead,
    depth_errors,
    depth_maps,
    depth_probe,
    read_depths,
    scale_invariant_loss,
)
from headrace.train.dense.segmentation import raw_patches
from tests.train.dense.shapes import FIELDS, scenes

QUICK = DepthConfig(steps=80, warmup_steps=10, lr=2e-2, most=8.0, bins=32, batch_size=8)


def fine(images: torch.Tensor) -> torch.Tensor:
    """Patches of 4 x 4 pixels."""
    return F.pixel_unshuffle(images, 4)


def depths(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(seed)) * 7 + 0.5


def test_uniform_scores_are_the_mean_bin() -> None:
    head = DepthHead(4, DepthConfig(most=10.0))
    nn.init.zeros_(head.score.weight)
    assert head.score.bias is not None
    nn.init.zeros_(head.score.bias)
    torch.testing.assert_close(head(torch.randn(2, 4, 3, 5)), torch.full((2, 1, 3, 5), (1e-3 + 10) / 2))
    assert DepthHead(4, DepthConfig(upsample=4))(torch.randn(2, 4, 3, 5)).shape == (2, 1, 12, 20)


def test_the_head_by_a_loop() -> None:
    config = DepthConfig(bins=3, most=4.001)
    head = DepthHead(2, config)
    cells = torch.randn(1, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    scores = [max(0.0, float(score)) + 0.1 for score in head.score(cells).detach().flatten()]
    wanted = sum(score * depth for score, depth in zip(scores, (0.001, 2.001, 4.001), strict=True)) / sum(scores)
    assert float(head(cells).detach()) == pytest.approx(wanted, rel=1e-5)


def test_the_loss_by_hand() -> None:
    """Of valid pixels alone, whose logarithms differ by 0.5 and -0.1: var 0.18, mean 0.2."""
    wanted = torch.tensor([[1.0, 2.0, 0.0, 9.0]])
    predicted = (wanted + 1e-3) * torch.tensor([math.exp(0.5), math.exp(-0.1), 5.0, 5.0]) - 1e-3
    expected = 10 * math.sqrt(0.18 + 0.15 * 0.2**2)
    assert float(scale_invariant_loss(predicted, wanted, 8.0)) == pytest.approx(expected, rel=1e-4)
    alone = float(scale_invariant_loss(predicted, wanted, 8.0, mean_only=True))
    assert alone == pytest.approx(10 * math.sqrt(0.15) * 0.2, rel=1e-4)


def test_scale_moves_the_mean_and_not_the_variance() -> None:
    wanted, predicted = depths(), depths(1)
    loss, scaled = (
        float(scale_invariant_loss(factor * (predicted + 1e-3) - 1e-3, wanted, 8.0)) ** 2 / 100 for factor in (1.0, 1.3)
    )
    mean = float(((predicted + 1e-3).log() - (wanted + 1e-3).log()).mean())
    assert scaled - loss == pytest.approx(0.15 * ((mean + math.log(1.3)) ** 2 - mean**2), rel=1e-3)


def test_perfection_has_no_loss_and_a_gradient_that_is_finite() -> None:
    for mean_only in (False, True):
        predicted = depths().requires_grad_()
        loss = scale_invariant_loss(predicted, depths(), 8.0, mean_only=mean_only)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert predicted.grad is not None
        assert (predicted.grad == 0).all()
    assert depth_errors(depths().numpy(), depths().numpy(), 8.0).tolist() == [0, 0, 0, 1, 1, 1]


def test_nothing_is_valid() -> None:
    predicted = depths().requires_grad_()
    scale_invariant_loss(predicted, torch.zeros(2, 1, 5, 7), 8.0).backward()
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()
    assert np.isnan(depth_errors(np.ones((2, 2)), np.zeros((2, 2)), 8.0)).all()


def test_metrics_by_a_loop() -> None:
    predicted, wanted = depths().numpy()[0, 0], depths(1).numpy()[0, 0]
    wanted[0, 0], wanted[1, 1] = 0.0, 9.0
    pairs = [(float(p), float(y)) for p, y in zip(predicted.ravel(), wanted.ravel(), strict=True) if 0 < y <= 8]
    assert len(pairs) == 33
    expected = [
        math.sqrt(sum((p - y) ** 2 for p, y in pairs) / 33),
        sum(abs(p - y) / y for p, y in pairs) / 33,
        sum(abs(math.log10(p / y)) for p, y in pairs) / 33,
        *(sum(max(p / y, y / p) < 1.25**power for p, y in pairs) / 33 for power in (1, 2, 3)),
    ]
    assert depth_errors(predicted, wanted, 8.0) == pytest.approx(expected)


def test_it_learns_that_shapes_are_near(scenes_train: ShardSet, scenes_test: ShardSet) -> None:
    """Better than the one depth that errs least."""
    settings = {"size": 64, "normalize": Normalize(), "config": QUICK}
    found = depth_probe(fine, scenes_train, scenes_test, **settings)
    assert found.errors.shape == (10, 6)
    scores = {name: each(np.ones(10, np.int64)) for name, each in found.statistics().items()}
    assert list(scores) == list(METRICS)
    whole = [read_depths(scenes_test, i, "depth", QUICK) for i in range(10)]
    constant = min(
        np.mean([depth_errors(np.full_like(y, depth), y, 8.0)[1] for y in whole]) for depth in np.linspace(1, 5, 41)
    )
    assert scores["abs-rel"] < 0.8 * constant
    short = {**settings, "config": replace(QUICK, steps=2)}
    once, again = (depth_probe(fine, scenes_train, scenes_test, **short).errors for _ in range(2))
    assert np.array_equal(once, again)


def test_pngs_are_of_millimetres_and_arrays_of_metres(tmp_path: Path, scenes_train: ShardSet) -> None:
    config = DepthConfig()
    sizes = scenes_train.places("image", [0]).shown_sizes()[0]
    found = read_depths(scenes_train, 0, "depth", config)
    assert found.shape == tuple(sizes)
    assert set(np.unique(found).round(3).tolist()) == {0.0, 1.0, 2.0, 4.0}
    assert read_depths(scenes_train, 0, "depth", DepthConfig(unit=0.002)).max() == 8.0
    (scene,) = scenes(1)
    metres = np.full(scene["image"].shape[:2], 2.5, np.float32)
    metres[0, 0] = np.nan
    fields = {"image": FIELDS["image"], "depth": Field(kind="array")}
    write_shards(tmp_path / "set", iter([{"__key__": "a", "image": scene["image"], "depth": metres}]), fields)
    with open_shards(tmp_path / "set") as shards:
        assert np.array_equal(read_depths(shards, 0, "depth", config), np.nan_to_num(metres))


@torch.no_grad()
def test_class_tokens_stand_beside_every_patch() -> None:
    config = tiny_vit(width=32, depth=4)
    network = build_backbone(BackboneConfig(name=config.name, options={**config.options, "img_size": 16}))[0].eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = depth_maps(network, 4)(images)
    assert maps.shape == (2, 4 * 64, 4, 4)
    torch.testing.assert_close(maps[:, -32:, 1, 2], network.forward_features(images)[:, 0])
    resnet = build_backbone(tiny_resnet())[0].eval()
    assert depth_maps(resnet, 1)(images).shape == (2, 128, 1, 1)
    with pytest.raises(ValueError, match="maps of different sizes; set layers to 1"):
        depth_maps(resnet, 4)(images)


def test_what_cannot_be_learnt_from(scenes_train: ShardSet, digits_webdataset: ShardSet) -> None:
    settings = {"size": 16, "normalize": Normalize()}
    with pytest.raises(RunError, match="has no field depth"):
        depth_probe(raw_patches, scenes_train, digits_webdataset, **settings)
    with pytest.raises(RunError, match="no pixel has a depth above 0 and up to"):
        depth_probe(raw_patches, scenes_train, scenes_train, **settings, config=DepthConfig(most=0.5))
    with pytest.raises(ConfigError, match=r"DepthConfig\.bins must be positive"):
        DepthConfig(bins=0)
