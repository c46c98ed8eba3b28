"""Instances as detectors learn them and as they are scored: boxes, classes and masks of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.shards import ShardSet
from headrace.train.dense.scenes import (
    INSTANCES,
    coco_masks,
    matched_categories,
    picture_size,
    rasterized,
    read_picture,
)


def as_levels(pixels: np.ndarray) -> Tensor:
    """float32 (3, H, W) from 0 to 1."""
    return torch.tensor(pixels).permute(2, 0, 1).float() / 255


def taught_instances(shards: ShardSet, i: int) -> list[Mapping[str, Any]]:
    """The instances to learn from: no crowds, no boxes without area."""
    instances = shards.read(i, [INSTANCES])[INSTANCES]
    return [each for each in instances if not each["iscrowd"] and min(each["bbox"][2:]) > 0]


def training_example(
    shards: ShardSet, i: int, numbers: Mapping[int, int], masks: bool, *, mirrored: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """A picture and what torchvision's detectors are told of it."""
    pixels = read_picture(shards, i)
    height, width = pixels.shape[:2]
    instances = taught_instances(shards, i)
    boxes = torch.tensor([each["bbox"] for each in instances], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    picture = as_levels(pixels)
    if mirrored:
        picture = picture.flip(2)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    target = {"boxes": boxes, "labels": torch.tensor([1 + numbers[int(each["category"])] for each in instances])}
    if masks:
        drawn = np.stack(
            [rasterized(each["segmentation"], (height, width), shards.where(i, INSTANCES)) for each in instances]
        )
        target["masks"] = torch.from_numpy(np.ascontiguousarray(drawn[:, :, ::-1] if mirrored else drawn)).byte()
    return picture, target


def truths(shards: ShardSet, names: Sequence[str], *, masks: bool) -> list[list[dict[str, Any]]]:
    """The instances of each picture, with the numbers that `names` gives to their categories and, with `masks`, run
    lengths as `segmentation`."""
    numbers = matched_categories(names, shards)
    found = []
    for i in range(len(shards)):
        here = []
        for instance in shards.read(i, [INSTANCES])[INSTANCES]:
            each = {name: instance[name] for name in ("bbox", "area", "iscrowd")}
            each["category"] = numbers[int(instance["category"])]
            if masks:
                mask = rasterized(instance["segmentation"], picture_size(shards, i), shards.where(i, INSTANCES))
                each["segmentation"] = run_lengths(mask)
            here.append(each)
        found.append(here)
    return found


def run_lengths(mask: np.ndarray) -> Any:
    """COCO's, of bool (H, W)."""
    return coco_masks().encode(np.asfortranarray(mask, np.uint8))
