"""Detectors on our backbones: all of them is trained, one picture is learnt by heart, pyramids fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headrace.models.parts.backbones import BackboneConfig, build_backbone, tiny_vit
from headrace.models.seeding import seeded
from headrace.pipeline import Normalize
from headrace.shards import ShardSet, open_shards, write_shards
from headrace.train import RunError
from headrace.train.dense import pyramids
from headrace.train.dense.detection import (
    DetectionConfig,
    build_detector,
    detect,
    detection_probe,
    fit_detector,
    score_detections,
)
from headrace.train.dense.pyramids import build_pyramid
from headrace.train.dense.targets import training_example, truths
from tests.train.dense.shapes import CLASSES, FIELDS, scenes, write_scenes

TINY = DetectionConfig(
    epochs=120, batch_size=1, optimizer="adamw", lr=3e-2, warmup_steps=5, size=64, max_size=96, rois=16, flip=0.0
)


def resnet() -> nn.Module:
    options = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32], "stem_width": 8}
    with seeded(0):
        return build_backbone(BackboneConfig(name="resnet18", options=options))[0]


def vit() -> nn.Module:
    config = tiny_vit(width=32, depth=1, patch=16)
    with seeded(0):
        return build_backbone(BackboneConfig(name=config.name, options={**config.options, "img_size": 32}))[0]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyramids of 16 channels in the place of 256, which learn as well what tests ask of them."""
    monkeypatch.setattr(pyramids, "WIDTH", 16)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """A single scene."""
    with open_shards(write_scenes(tmp_path_factory.mktemp("one") / "set", 1)) as shards:
        yield shards


@pytest.mark.usefixtures("narrow")
@pytest.mark.peer("faster-coco-eval")
def test_one_picture_is_learnt_by_heart(one: ShardSet) -> None:
    config = replace(TINY, masks=False)
    detector = build_detector(resnet(), 2, Normalize(), config)
    fixed = [name for name, parameter in detector.named_parameters() if not parameter.requires_grad]
    assert fixed == []
    before = {name: value.clone() for name, value in detector.named_parameters()}
    losses = fit_detector(detector, one, config)
    assert losses["sum"] < 0.1
    unmoved = [name for name, value in detector.named_parameters() if torch.equal(value, before[name])]
    assert unmoved == []
    found = score_detections(detect(detector, one, masks=False), truths(one, CLASSES, masks=False), one, CLASSES, False)
    assert found.scores["box AP50"] == 1.0
    assert found.scores["box AP"] > 0.6
    assert found.matches["box AP"].average_precision() == pytest.approx(found.scores["box AP"], abs=1e-6)


@pytest.mark.usefixtures("narrow")
@pytest.mark.peer("faster-coco-eval")
def test_masks_are_learnt_too(one: ShardSet) -> None:
    config = replace(TINY, epochs=30, size=48, max_size=72, rois=8)
    detector = build_detector(vit(), 2, Normalize(), config)
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert fit_detector(detector, one, config)["loss_mask"] < 0.5  # of 0.69 at first
    found = detect(detector, one, masks=True)
    true = truths(one, CLASSES, masks=True)
    scores = score_detections(found, true, one, CLASSES, masks=True)
    assert scores.scores["mask AP50"] > 0
    assert set(scores.matches) == {"box AP", "mask AP"}


@pytest.mark.usefixtures("narrow")
@pytest.mark.peer("faster-coco-eval")
def test_the_whole_probe_on_a_vit(scenes_test: ShardSet, scenes_train: ShardSet) -> None:
    """It says nothing of accuracy, but that sets, whose categories are numbered differently, go through."""
    config = DetectionConfig(masks=False, epochs=1, batch_size=12, size=40, rois=8, warmup_steps=0, lr=1e-3)
    network = vit()
    kept = [parameter.clone() for parameter in network.parameters()]
    found = detection_probe(network, scenes_train, scenes_test, Normalize(), config)
    assert found.classes == CLASSES
    assert set(found.scores) >= {"box AP", "box AP50", "box AP75"}
    assert not any(name.startswith("mask") for name in found.scores)
    assert all(torch.equal(a, b) for a, b in zip(kept, network.parameters(), strict=True))  # a copy was trained


@torch.no_grad()
def test_levels_halve_and_have_256_channels() -> None:
    for levels, first in (
        (build_pyramid(resnet(), 64).eval()(torch.zeros(1, 3, 64, 96)), (16, 24)),
        (build_pyramid(vit(), 64).eval()(torch.zeros(1, 3, 64, 64)), (16, 16)),
    ):
        assert list(levels) == ["0", "1", "2", "3", "pool"]
        sides = [tuple(each.shape[2:]) for each in levels.values()]
        assert sides == [tuple(-(-side // 2**level) for side in first) for level in range(5)]
        assert {each.shape[1] for each in levels.values()} == {256}


@pytest.mark.usefixtures("narrow")
def test_pictures_are_normalised_once_by_the_methods_own_numbers() -> None:
    normalize = Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    transform = build_detector(resnet(), 2, normalize, TINY).transform
    assert (transform.image_mean, transform.image_std) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    picture = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))
    shown = transform([picture])[0].tensors[0, :, :64, :80]
    wanted = (picture - torch.tensor(normalize.mean)[:, None, None]) / torch.tensor(normalize.std)[:, None, None]
    torch.testing.assert_close(shown, wanted)
    with pytest.raises(RunError, match="normalised by channel"):
        build_detector(resnet(), 2, Normalize.lab(), TINY)


@pytest.mark.usefixtures("narrow")
def test_a_vit_sees_squares_and_anchors_follow_the_size() -> None:
    detector = build_detector(vit(), 2, Normalize(), DetectionConfig(size=50))
    images, _ = detector.transform([torch.rand(3, 30, 60), torch.rand(3, 60, 20)])
    assert images.tensors.shape == (2, 3, 64, 64)
    assert images.image_sizes == [(32, 64), (64, 21)]
    assert detector.rpn.anchor_generator.sizes[0] == (2.0,)
    assert detector.roi_heads.box_predictor.cls_score.out_features == 3  # with the background


@pytest.mark.peer("faster-coco-eval")
def test_a_mirrored_example(one: ShardSet) -> None:
    plain, target = training_example(one, 0, {0: 0, 1: 1}, True, mirrored=False)
    flipped, other = training_example(one, 0, {0: 0, 1: 1}, True, mirrored=True)
    assert torch.equal(plain.flip(2), flipped)
    assert torch.equal(target["masks"].flip(2), other["masks"])
    assert target["labels"].tolist() == [1, 2]
    for picture, known in ((plain, target), (flipped, other)):
        for (left, top, right, bottom), mask in zip(known["boxes"].tolist(), known["masks"], strict=True):
            rows, columns = (np.flatnonzero(mask.numpy().any(axis)) for axis in (1, 0))
            assert (rows[0], columns[0]) == pytest.approx((top, left), abs=1)
            assert (rows[-1] + 1, columns[-1] + 1) == pytest.approx((bottom, right), abs=1)
        assert picture.shape[1:] == known["masks"].shape[1:]


@pytest.mark.peer("faster-coco-eval")
def test_what_cannot_be_detected(tmp_path: Path, one: ShardSet, digits_webdataset: ShardSet) -> None:
    with pytest.raises(RunError, match="has no field instances"):
        detection_probe(resnet(), digits_webdataset, one, Normalize(), TINY)
    with pytest.raises(RunError, match="a Linear has no feature maps"):
        build_detector(nn.Linear(2, 2), 2, Normalize(), TINY)
    crowded = [
        {**each, "instances": [{**instance, "iscrowd": 1} for instance in each["instances"]]} for each in scenes(1)
    ]
    write_shards(tmp_path / "crowd", iter(crowded), FIELDS)
    with open_shards(tmp_path / "crowd") as shards, pytest.raises(RunError, match="no picture has an instance"):
        fit_detector(nn.Identity(), shards, TINY)
