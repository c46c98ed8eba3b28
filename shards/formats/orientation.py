"""How a picture is to be shown: EXIF's orientation, a number from 1 to 8.

    1  as it is stored          5  columns and rows exchanged (mirrored along the main diagonal)
    2  mirrored left to right   6  turned a quarter clockwise
    3  turned by half           7  mirrored along the other diagonal
    4  mirrored top to bottom   8  turned a quarter anticlockwise

A picture of 5 to 8 is shown as wide as it is stored high. Of all numbers the shown picture is the stored one, from 5 on
with rows and columns exchanged, then mirrored left to right (2, 3, 6, 7) and top to bottom (3, 4, 7, 8).

The number is tag 274 in the first directory of an EXIF block (CIPA DC-008, 4.6.4), which is laid out as a TIFF file is.
A block without it, or a damaged one, is 1: no picture is refused because of what it says beside its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Orientation = Literal["apply", "ignore"]
"""Whether pictures are turned as their files say."""
UPRIGHT = 1
TAG = 274
EXIF_START = b"Exif\0\0"
"""What stands before the block in a JPEG, and in files of some programs elsewhere."""
WIDTHS = {3: 2, 4: 4}
"""Bytes of a number by its type in a directory: SHORT, which is EXIF's for this tag, and LONG, which some write."""
MAX_ENTRIES = 1 << 10
"""Of a directory that are looked at; cameras write dozens."""

TRANSPOSED = frozenset((5, 6, 7, 8))
MIRRORED = frozenset((2, 3, 6, 7))
FLIPPED = frozenset((3, 4, 7, 8))
INVERSE = (0, 1, 2, 3, 4, 5, 8, 7, 6)
"""By orientation, the one that takes a shown picture back to the stored one."""


def exif_orientation(block: bytes | memoryview) -> int:
    """The orientation in an EXIF block, with or without `EXIF_START`; 1 where it says none from 1 to 8."""
    block = bytes(block)
    if block.startswith(EXIF_START):
        block = block[len(EXIF_START) :]
    if block[:2] not in (b"II", b"MM"):
        return UPRIGHT
    order: Any = "little" if block[:2] == b"II" else "big"

    def number(at: int, width: int) -> int:
        return int.from_bytes(block[at : at + width], order)

    start = number(4, 4)
    if number(2, 2) != 42 or start + 2 > len(block):
        return UPRIGHT
    for entry in range(min(number(start, 2), MAX_ENTRIES)):
        at = start + 2 + 12 * entry
        if at + 12 > len(block):
            break
        if number(at, 2) == TAG:
            width = WIDTHS.get(number(at + 2, 2), 0)
            found = number(at + 8, width) if number(at + 4, 4) == 1 else 0
            return found if 1 <= found <= 8 else UPRIGHT
    return UPRIGHT


def orientation_in(sample: Mapping[str, Any], field: str) -> int:
    """How the image of a sample, as `ShardSet.read` gives it, is to be shown."""
    found: int = sample.get("__orientation__", {}).get(field, UPRIGHT)
    return found


def shown_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) of a picture as it is shown, of those that are stored."""
    return (width, height) if orientation in TRANSPOSED else (height, width)


def turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Stored pixels (H, W, C) as they are shown: a view of the same memory, (W, H, C) where rows and columns are
    exchanged."""
    if orientation in TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in FLIPPED else pixels
