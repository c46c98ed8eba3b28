"""Pictures with what was found in them beside what is there, for reports: boxes and masks, classes, depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from headrace.train.dense.scenes import IGNORED, coco_masks

SIDE = 240
"""Pixels of a drawing's longer side."""
SURE = 0.5
"""Score from which a detection is drawn; where none reaches it, the surest one."""
COLOURS = np.array(
    [[11, 110, 153], [217, 115, 13], [91, 140, 42], [154, 59, 140], [200, 50, 60], [60, 160, 160], [150, 120, 30]],
    np.uint8,
)
"""Of classes, in turn; the background of a map of classes has none."""


def detections(
    pixels: np.ndarray,
    true: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> np.ndarray:
    """The instances of a picture, and beside them the surest of those that were found, as uint8 (H, W, 3).

    Args:
        pixels: uint8 (H, W, 3).
        true, found: with `category`, `bbox` [x, y, width, height], run lengths as `segmentation` or none, and of those
            that were found `score`.
    """
    surest = sorted(found, key=lambda each: -each["score"])
    sure = [each for each in surest if each["score"] >= SURE] or surest[:1]
    return _beside(_instances(pixels, true, names), _instances(pixels, sure, names))


def class_maps(pixels: np.ndarray, wanted: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """A picture, its map of classes, and what was said of it; all (H, W). Ignored pixels are grey."""
    return _beside(_shrunk(pixels), *(_shrunk(_painted(pixels, each)) for each in (wanted, predicted)))


def depth_maps(pixels: np.ndarray, wanted: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """A picture, its depths and those that were said, near ones bright; where none is known, black."""
    known = np.isfinite(wanted) & (wanted > 0)
    low, high = (float(wanted[known].min()), float(wanted[known].max())) if known.any() else (0.0, 1.0)

    def painted(depth: np.ndarray) -> np.ndarray:
        near = 1 - np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
        return np.asarray(colormaps["magma"](near, bytes=True))[..., :3]

    of_truth = np.where(known[..., None], painted(np.where(known, wanted, low)), 0).astype(np.uint8)
    return _beside(_shrunk(pixels), _shrunk(of_truth), _shrunk(painted(predicted)))


def _instances(pixels: np.ndarray, instances: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    painted = pixels.copy()
    for each in instances:
        if each.get("segmentation") is not None:
            inside = coco_masks().decode(each["segmentation"]).astype(bool)
            colour = COLOURS[each["category"] % len(COLOURS)]
            painted[inside] = (painted[inside] // 2 + colour // 2).astype(np.uint8)
    image = Image.fromarray(_shrunk(painted))
    scale = image.width / pixels.shape[1]
    draw = ImageDraw.Draw(image)
    for each in instances:
        x, y, width, height = (scale * number for number in each["bbox"])
        colour = tuple(COLOURS[each["category"] % len(COLOURS)].tolist())
        draw.rectangle((x, y, x + width, y + height), outline=colour, width=2)
        score = f" {each['score']:.2f}" if "score" in each else ""
        text = f"{names[each['category']]}{score}"
        corner = (max(0.0, x), max(0.0, y - 11))
        draw.rectangle(draw.textbbox(corner, text), fill=colour)
        draw.text(corner, text, fill="white")
    return np.asarray(image)


def _painted(pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The picture under the colours of classes; class 0, most often the background, has none."""
    colours = COLOURS[(classes.astype(int) - 1) % len(COLOURS)]
    mixed = (pixels // 2 + colours // 2).astype(np.uint8)
    mixed[classes == 0] = pixels[classes == 0]
    mixed[classes == IGNORED] = 128
    return mixed


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    scale = SIDE / max(image.size)
    width, height = (max(1, round(scale * side)) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX))


def _beside(*pictures: np.ndarray) -> np.ndarray:
    """In a row, with white between them."""
    height = pictures[0].shape[0]
    gap = np.full((height, 6, 3), 255, np.uint8)
    row = [pictures[0]]
    for picture in pictures[1:]:
        row += [gap, picture]
    return np.concatenate(row, axis=1)
