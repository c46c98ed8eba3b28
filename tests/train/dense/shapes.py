"""Scenes in COCO's layout, with maps of classes and of depth beside them: coloured boxes and triangles on pieces of a
photograph."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from headrace.shards import Field, write_shards

CLASSES = ("box", "triangle")
COLOURS = ((230, 40, 40), (40, 60, 230))
FIELDS = {
    "image": Field(kind="image", encoding="raw"),
    "instances": Field(kind="json"),
    "classes": Field(kind="image", encoding="png"),
    "depth": Field(kind="image", encoding="png"),
}


def png(levels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()


def scenes(count: int, seed: int = 0, classes: Sequence[str] = CLASSES) -> Iterator[dict[str, Any]]:
    """Of 48 to 80 pixels a side, each with a box and a triangle. `classes` is 0, the box 1, the triangle 2; `depth` in
    millimetres, 4000 behind, 2000 and 1000 on the shapes, 0 (not known) in the first column. Categories are numbered by
    their places in `classes`."""
    random = np.random.default_rng(seed)
    photograph = load_sample_images().images[1] // 2
    for number in range(count):
        height, width = (int(side) for side in random.integers(48, 81, 2))
        top, left = (int(random.integers(whole - side)) for whole, side in ((427, height), (640, width)))
        picture = Image.fromarray(photograph[top : top + height, left : left + width])
        labels = Image.new("L", picture.size)
        instances = []
        for label, (name, colour) in enumerate(zip(CLASSES, COLOURS, strict=True), 1):
            side = int(random.integers(16, 25))
            x = int(random.integers(width // 2 * (label - 1), width // 2 * label - min(side, width // 2 - 1)))
            y = int(random.integers(height - side))
            side = min(side, width // 2 - 1)
            corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)][: 4 if name == "box" else 3]
            ImageDraw.Draw(picture).polygon(corners, fill=colour)
            ImageDraw.Draw(labels).polygon(corners, fill=label)
            instances.append(
                {
                    "id": 10 * number + label,
                    "category": list(classes).index(name),
                    "category_id": list(classes).index(name) + 1,
                    "name": name,
                    "bbox": [float(x), float(y), float(side), float(side)],
                    "area": float(side * side) / (1 if name == "box" else 2),
                    "iscrowd": 0,
                    "segmentation": [[float(number) for corner in corners for number in corner]],
                }
            )
        depth = np.choose(np.asarray(labels), [4000, 2000, 1000]).astype(np.uint16)
        depth[:, 0] = 0
        yield {
            "__key__": f"{number:04d}",
            "image": np.asarray(picture),
            "instances": instances,
            "classes": png(np.asarray(labels)),
            "depth": png(depth),
        }


def write_scenes(path: Path, count: int, seed: int = 0, classes: Sequence[str] = CLASSES) -> Path:
    write_shards(path, scenes(count, seed, classes), FIELDS)
    return path
