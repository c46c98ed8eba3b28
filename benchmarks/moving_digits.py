"""Digits that drift before photographs: a small set of clips whose label is what moves.

Each of MNIST's digits (`headrace.tools.sources.mnist`) moves over a darkened piece of one of Debian's wallpapers
(`headrace.benchmarks.motions`) and comes back where the frame would cut it. Test clips are of other digits, before
other wallpapers, than training clips. Each clip is a stack of 10 frames of 36 x 36 pixels and depends on its split and
number alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.motions import shrunk, sources
from headrace.shards import Field, write_shards
from headrace.tools.errors import UserError
from headrace.tools.sources.mnist import TRAIN_EACH, digits

FRAMES = 10
SIDE = 36
"""Of a frame, in pixels."""
SPEED = (0.4, 1.6)
"""Pixels a frame along each axis, from and to."""
GROUND = 0.4
"""What is left of the photograph's brightness."""
DIGIT = 28
"""Side of a digit, in pixels."""

Split = Literal["train", "test"]


def moving_digits(split: Split, each: int | None = None) -> Iterator[dict[str, Any]]:
    """Clips of a split, class by class; the first `each` of a class, or all.

    Raises:
        SourceMissing: if digits or wallpapers cannot be had.
    """
    try:
        pixels, labels = digits()
    except UserError as error:
        raise SourceMissing(str(error)) from None
    pictures = [shrunk(path).permute(1, 2, 0).numpy() for path in sources(split)]
    of_split = slice(None, TRAIN_EACH) if split == "train" else slice(TRAIN_EACH, None)
    rows = [row for label in range(10) for row in np.flatnonzero(labels == label)[of_split][:each].tolist()]
    for number, row in enumerate(rows):
        random = np.random.Generator(np.random.Philox([("train", "test").index(split), number]))
        frames = clip_of(pixels[row], pictures[int(random.integers(len(pictures)))], random)
        yield {"__key__": f"{number:06d}", "frames": frames, "label": int(labels[row])}


def clip_of(digit: NDArray[np.uint8], picture: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 (FRAMES, SIDE, SIDE, 3): a digit (28, 28) on its way over a piece of a picture (H, W, 3) in levels."""
    top, left = (int(random.integers(side - SIDE)) for side in picture.shape[:2])
    ground = GROUND * picture[top : top + SIDE, left : left + SIDE]
    room = SIDE - DIGIT
    start, speed = random.uniform(0, room, 2), random.uniform(*SPEED, 2) * random.choice([-1, 1], 2)
    frames = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
    for time in range(FRAMES):
        y, x = np.abs((start + speed * time + room) % (2 * room) - room).astype(int)
        cover = np.zeros((SIDE, SIDE, 1))
        cover[y : y + DIGIT, x : x + DIGIT, 0] = digit / 255
        frames[time] = np.clip(ground * (1 - cover) + 255 * cover, 0, 255)
    return frames


def write_moving_digits(folder: Path, each: dict[Split, int] | None = None) -> None:
    """Shard sets `train` and `test`, of so many clips of each digit, or of all.

    Raises:
        SourceMissing: as `moving_digits`.
    """
    fields = {"frames": Field(kind="array"), "label": Field(kind="int", classes=tuple("0123456789"))}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        write_shards(folder / split, moving_digits(split, each[split] if each else None), fields, format="ffcv")
