"""Linear segmentation: its metric against loops and scikit-learn, its data, and what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sklearn.metrics import jaccard_score

from headrace.pipeline import Normalize
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.train import RunError
from headrace.train.dense.scenes import IGNORED, SemanticLabels, rasterized, read_picture
from headrace.train.dense.segmentation import (
    SegmentationConfig,
    SegmentationOutcomes,
    Standardized,
    ious_of,
    mean_iou,
    pixel_sums,
    raw_patches,
    segmentation_probe,
)
from headrace.train.probes.intervals import bootstrap
from tests.train.dense.shapes import FIELDS, png, scenes

QUICK = SegmentationConfig(steps=80, lr=2e-2, batch_size=12)


def random_maps(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, classes, (2, count, 6, 7))


def test_the_mean_iou_is_scikit_learns() -> None:
    predicted, labels = random_maps(5, 4)
    labels[:, 0, :3] = IGNORED
    sums = sum(pixel_sums(p, y, 6) for p, y in zip(predicted, labels, strict=True))
    known = labels != IGNORED
    wanted = jaccard_score(labels[known], predicted[known], average=None)
    assert ious_of(sums)[:4] == pytest.approx(wanted)
    assert np.isnan(ious_of(sums)[4:]).all()  # in neither: they do not count
    assert mean_iou(sums) == pytest.approx(wanted.mean())


def test_one_confusion_of_all_pixels_by_a_loop() -> None:
    predicted, labels = random_maps(3, 3, seed=1)
    labels[0, 0, 0] = IGNORED
    confusion = np.zeros((3, 3))
    for y, p in zip(labels.ravel(), predicted.ravel(), strict=True):
        if y != IGNORED:
            confusion[y, p] += 1
    ious = [confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]) for c in range(3)]
    pixels = np.stack([pixel_sums(p, y, 3) for p, y in zip(predicted, labels, strict=True)])
    outcomes = SegmentationOutcomes(pixels=pixels, names=("a", "b", ""))
    assert outcomes.class_ious() == pytest.approx(dict(zip(("a", "b", "2"), ious, strict=True)))
    found = {name: bootstrap(each, 3, draws=50) for name, each in outcomes.statistics().items()}
    assert found["mIoU"].value == pytest.approx(np.mean(ious))
    assert found["pixel accuracy"].value == pytest.approx(np.trace(confusion) / confusion.sum())
    assert found["mIoU"].low < found["mIoU"].value < found["mIoU"].high


def test_perfect_and_constant_predictions() -> None:
    _, labels = random_maps(1, 3)
    labels[0, 0] = IGNORED
    assert mean_iou(pixel_sums(labels[0], labels[0], 3)) == 1.0
    known = labels[0] != IGNORED
    share = (labels[0][known] == 1).mean()
    assert ious_of(pixel_sums(np.ones_like(labels[0]), labels[0], 3)) == pytest.approx([0.0, share, 0.0])


def test_maps_have_mean_0_and_deviation_1_over_all_places() -> None:
    maps = torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(0)) * 3 + 7
    maps[:, 3] = 2.0
    found = Standardized(maps)(maps)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3), correction=0)[:3], torch.ones(3))
    assert (found[:, 3] == 0).all()


@pytest.mark.peer("faster-coco-eval")
@pytest.mark.parametrize("field", [None, "classes"])
def test_it_learns_shapes_of_colours(scenes_train: ShardSet, scenes_test: ShardSet, field: str | None) -> None:
    found = segmentation_probe(
        raw_patches, scenes_train, scenes_test, size=64, normalize=Normalize(), field=field, config=QUICK
    )
    assert found.names == (("", "", "") if field else ("background", "box", "triangle"))
    ious = found.class_ious()
    assert min(ious.values()) > 0.2
    assert mean_iou(found.pixels.sum(0)) > 0.45  # 0.29 where all is background
    sizes = [read_picture(scenes_test, i).shape for i in range(len(scenes_test))]
    assert found.pixels[:, 2].sum(1).tolist() == [height * width for height, width, _ in sizes]


@pytest.mark.peer("faster-coco-eval")
def test_instances_and_maps_say_the_same_but_at_the_rims(scenes_train: ShardSet) -> None:
    of_instances, of_maps = SemanticLabels(scenes_train), SemanticLabels(scenes_train, "classes")
    for i in range(4):
        size = read_picture(scenes_train, i).shape[:2]
        assert (of_instances.read(i, size) != of_maps.read(i, size)).mean() < 0.05


@pytest.mark.peer("faster-coco-eval")
def test_overlaps_crowds_and_run_lengths(tmp_path: Path) -> None:
    """The smaller instance is seen; a crowd is ignored where nothing else is."""
    base = {"id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    small = {
        **base,
        "category": 0,
        "name": "small",
        "area": 4,
        "iscrowd": 0,
        "segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]],
    }
    large = {**base, "category": 2, "name": "large", "area": 36, "iscrowd": 0}
    large |= {"segmentation": {"size": [8, 8], "counts": [0, 6, 2, 6, 2, 6, 2, 6, 2, 6, 2, 6, 18]}}
    crowd = {**base, "category": 0, "name": "small", "area": 48, "iscrowd": 1}
    crowd |= {"segmentation": {"size": [8, 8], "counts": [16, 48]}}
    fields = {"image": FIELDS["image"], "instances": FIELDS["instances"]}
    sample = {"__key__": "a", "image": np.zeros((8, 8, 3), np.uint8), "instances": [small, large, crowd]}
    write_shards(tmp_path / "set", iter([sample]), fields)
    wanted = np.zeros((8, 8), int)
    wanted[:, 2:] = IGNORED
    wanted[:6, :6] = 3
    wanted[2:4, 2:4] = 1
    with open_shards(tmp_path / "set") as shards:
        labels = SemanticLabels(shards)
        assert labels.names == ("background", "small", "", "large")
        assert labels.read(0, (8, 8)).tolist() == wanted.tolist()


@pytest.mark.peer("faster-coco-eval")
def test_polygons_are_filled() -> None:
    corners = [(3.0, 2.0), (30.0, 7.0), (18.0, 28.0)]
    image = Image.new("1", (36, 32))
    ImageDraw.Draw(image).polygon(corners, fill=1)
    found = rasterized([[number for corner in corners for number in corner]], (32, 36), "here")
    assert found.shape == (32, 36)
    assert (found != np.asarray(image)).sum() < 60  # of 420: they differ by the rim
    assert not rasterized([], (4, 5), "here").any()
    for segmentation in (
        [[1.0]],
        {"size": [4, 5], "counts": "?"},
        {"counts": [20]},
        "all",
        {"size": [5, 4], "counts": [20]},
    ):
        with pytest.raises(RunError, match="here: a segmentation"):
            rasterized(segmentation, (4, 5), "here")


def test_what_cannot_be_learnt_from(tmp_path: Path, scenes_train: ShardSet) -> None:
    with pytest.raises(RunError, match="no field masks; it has"):
        SemanticLabels(scenes_train, "masks")
    with pytest.raises(RunError, match="must be a map of the picture's"):
        SemanticLabels(scenes_train, "classes").read(0, (3, 4))
    samples = [
        {"__key__": "a", "image": np.zeros((8, 8, 3), np.uint8), "classes": png(np.full((8, 8), IGNORED, np.uint8))},
        {"__key__": "b", "image": np.zeros((8, 8, 3), np.uint8), "classes": png(np.full((8, 8), 7, np.uint8))},
    ]
    fields = {name: FIELDS[name] for name in ("image", "classes")}
    settings = {"size": 8, "normalize": Normalize(), "field": "classes", "config": QUICK}
    for sample in samples:
        write_shards(tmp_path / sample["__key__"], iter([sample]), fields)
    with open_shards(tmp_path / "a") as ignored, open_shards(tmp_path / "b") as seven:
        with pytest.raises(RunError, match="every pixel is ignored"):
            segmentation_probe(raw_patches, ignored, ignored, **settings)
        with pytest.raises(RunError, match="has pixels of class 7, which"):
            segmentation_probe(raw_patches, scenes_train, seven, **{**settings, "config": replace(QUICK, steps=1)})


@pytest.mark.peer("faster-coco-eval")
def test_a_test_set_with_a_class_of_its_own(tmp_path: Path, scenes_test: ShardSet) -> None:
    boxes = [{**each, "instances": each["instances"][:1]} for each in scenes(2)]
    write_shards(tmp_path / "boxes", iter(boxes), {**FIELDS, "depth": Field(kind="image", encoding="png")})
    with open_shards(tmp_path / "boxes") as shards, pytest.raises(RunError, match="has instances of 'triangle'"):
        segmentation_probe(raw_patches, shards, scenes_test, size=32, normalize=Normalize(), config=QUICK)
