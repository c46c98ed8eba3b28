"""COCO's boxes, polygons and run lengths on a picture that is shown turned or mirrored.

They are in pixels of the stored picture: COCO's own tools and those that train on it decode with libraries that leave
EXIF's orientation out. Run lengths go column by column and begin with those of zeros; as text they are in the coding of
https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (rleToString).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.shards.formats.orientation import FLIPPED, MIRRORED, TRANSPOSED, shown_size, turned
from headrace.tools.sources.source import BadSample

MAX_PIXELS = 1 << 28
"""Of a segmentation in run lengths; a few bytes can claim to be gigabytes."""


def turned_instances(
    instances: list[dict[str, Any]], height: int, width: int, orientation: int
) -> list[dict[str, Any]]:
    """The instances of a picture that is stored in so many pixels, as they lie on the shown one; BadSample where run
    lengths do not fill theirs."""
    size = shown_size(height, width, orientation)
    return [
        {
            **instance,
            "bbox": turned_box(instance["bbox"], *size, orientation),
            "segmentation": turned_segmentation(instance["segmentation"], *size, orientation),
        }
        for instance in instances
    ]


def turned_box(box: list[float], height: int, width: int, orientation: int) -> list[float]:
    """[x, y, width, height] on the shown picture, which has `height` and `width`."""
    x, y, wide, high = box
    if orientation in TRANSPOSED:
        x, y, wide, high = y, x, high, wide
    x = width - x - wide if orientation in MIRRORED else x
    y = height - y - high if orientation in FLIPPED else y
    return [rounded(number) for number in (x, y, wide, high)]


def turned_segmentation(segmentation: Any, height: int, width: int, orientation: int) -> Any:
    """Polygons or run lengths, likewise."""
    if isinstance(segmentation, list):
        return [turned_polygon(polygon, height, width, orientation) for polygon in segmentation]
    (rows, columns), counts = segmentation["size"], segmentation["counts"]
    runs = counts if isinstance(counts, list) else runs_of(counts)
    if (
        rows < 1
        or columns < 1
        or rows * columns > MAX_PIXELS
        or min(runs, default=0) < 0
        or sum(runs) != rows * columns
    ):
        raise BadSample(f"a segmentation whose run lengths do not fill its {columns}x{rows} pixels")
    mask = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(columns, rows).T
    found = turned(mask[:, :, None], orientation)[:, :, 0]
    flat = found.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *ends.tolist(), len(flat)]).tolist()
    lengths = [0, *lengths] if flat[0] else lengths
    return {"size": list(found.shape), "counts": lengths if isinstance(counts, list) else text_of(lengths)}


def turned_polygon(polygon: list[float], height: int, width: int, orientation: int) -> list[float]:
    """[x1, y1, x2, y2, ...] on the shown picture."""
    found: list[float] = []
    for x, y in zip(polygon[::2], polygon[1::2], strict=False):
        if orientation in TRANSPOSED:
            x, y = y, x
        found += [width - x if orientation in MIRRORED else x, height - y if orientation in FLIPPED else y]
    return [rounded(number) for number in found]


def rounded(number: float) -> float:
    """Without the digits that binary adds to a difference; COCO has two behind the point."""
    return round(number, 6) if isinstance(number, float) else number


def runs_of(text: str) -> list[int]:
    """Run lengths from their text: five bits a character, from the third run on the difference to the one two before;
    BadSample where it is none."""
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BadSample("a segmentation whose run lengths are no such text")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise BadSample("a segmentation whose run lengths are cut off")
    return runs


def text_of(runs: list[int]) -> str:
    """Inverse of `runs_of`."""
    characters: list[str] = []
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        while True:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            characters.append(chr(48 + bits + (32 if more else 0)))
            if not more:
                break
    return "".join(characters)
