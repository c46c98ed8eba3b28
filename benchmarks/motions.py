"""Real pictures before a moving camera: a small set of clips whose motion is the label.

    python -m headrace.benchmarks.motions OUT [--train N] [--test N]

A square window goes over Debian's wallpapers (`headrace.benchmarks.photographs`), shrunk to 480 pixels a side: left,
right, up or down, nearer or farther, clockwise or counter-clockwise, at a drawn place with a drawn speed. No single
frame says which way. Test clips are of other wallpapers than training clips. Each clip is a stack of 10
frames of 36 x 36 pixels and depends on its split and number alone.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from headrace.benchmarks.errors import BenchmarkError, SourceMissing
from headrace.benchmarks.photographs import PACKAGES, wallpapers
from headrace.shards import Field, write_shards

MOTIONS = ("left", "right", "up", "down", "nearer", "farther", "clockwise", "counter-clockwise")
"""Of the camera. The class is the position here."""
FRAMES = 10
SIDE = 36
"""Of a frame, in pixels."""
SHORT_SIDE = 480
"""To which wallpapers are shrunk, in pixels."""
PICTURES = {
    "train": (
        "Aqua", "Blinds", "Dune", "Elephants", "FreshFlower", "Garden", "GreenMeadow", "LadyBird", "RainDrops", "Storm",
        "Autumn", "BytheWater", "ColorfulCups", "Kite", "SafeLanding", "Shell",
    ),
    "test": ("TwoWings", "Wood", "YellowFlower", "FallenLeaf", "OneStandsOut", "Path"),
}  # fmt: skip
"""Wallpapers by name, those with texture."""
TEXTURE = 3.0
"""Levels by which pixels of a frame differ from their neighbours on average, at least, so that there is motion to see;
else another place is drawn."""
COUNTS = {"train": 2400, "test": 800}

SHIFT = (1.5, 4.0)
"""Pixels a frame, from and to."""
ZOOM = (1.05, 1.12)
"""Factor a frame."""
TURN = (5.0, 12.0)
"""Degrees a frame."""


def shrunk(path: Path) -> Tensor:
    """A wallpaper as float32 (3, H, W) in levels, its shorter side `SHORT_SIDE`."""
    with Image.open(path) as picture:
        factor = SHORT_SIDE / min(picture.size)
        size = [round(side * factor) for side in picture.size]
        pixels = np.asarray(picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()


def window(motion: str, random: np.random.Generator, height: int, width: int) -> Tensor:
    """float32 (T, 2, 3): for every frame the matrix that takes places of the window, -1 to 1, to pixels of a picture,
    (column, row)."""
    speed = {
        name: float(random.uniform(*limits)) for name, limits in (("shift", SHIFT), ("zoom", ZOOM), ("turn", TURN))
    }
    steps = np.arange(FRAMES) - (FRAMES - 1) / 2
    scale: np.ndarray = np.ones(FRAMES)
    angle: np.ndarray = np.zeros(FRAMES)
    shift = np.zeros((2, FRAMES))
    way = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
    if motion in way:
        axis, sign = way[motion]
        shift[axis] = sign * speed["shift"] * steps
    elif motion in ("nearer", "farther"):
        scale = speed["zoom"] ** (-steps if motion == "nearer" else steps)
    else:
        angle = np.deg2rad(speed["turn"]) * (steps if motion == "clockwise" else -steps)
    reach = SIDE / 2 * math.sqrt(2) * max(scale) + np.abs(shift).max()
    centre = [random.uniform(reach, side - reach) for side in (width, height)]
    cosine, sine = scale * SIDE / 2 * np.cos(angle), scale * SIDE / 2 * np.sin(angle)
    rows = [[cosine, -sine, centre[0] + shift[0]], [sine, cosine, centre[1] + shift[1]]]
    return torch.tensor(np.array(rows), dtype=torch.float32).permute(2, 0, 1)


def shot(picture: Tensor, matrices: Tensor) -> np.ndarray:
    """uint8 (T, H, W, 3): the picture (3, H, W) through a window's matrices, between pixels by bicubic."""
    height, width = picture.shape[1:]
    half = torch.tensor([[2 / width], [2 / height]])
    to_unit = matrices * half - torch.tensor([[0.0, 0.0, 1.0]] * 2)
    grid = F.affine_grid(to_unit, [FRAMES, 3, SIDE, SIDE], align_corners=False)
    frames = F.grid_sample(picture.expand(FRAMES, -1, -1, -1), grid, mode="bicubic", align_corners=False)
    return frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def motion_clips(split: Literal["train", "test"], count: int) -> Iterator[dict[str, Any]]:
    """The first `count` clips of a split, motions in turn.

    Raises:
        SourceMissing: if the wallpapers cannot be had.
    """
    pictures = [shrunk(path) for path in sources(split)]
    for number in range(count):
        label = number % len(MOTIONS)
        random = np.random.Generator(np.random.Philox([("train", "test").index(split), number]))
        frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
        while texture(frames[FRAMES // 2]) < TEXTURE:
            picture = pictures[int(random.integers(len(pictures)))]
            frames = shot(picture, window(MOTIONS[label], random, *picture.shape[1:]))
        yield {"__key__": f"{number:06d}", "frames": frames, "label": label}


def sources(split: Literal["train", "test"]) -> list[Path]:
    """The wallpapers of a split, one file each."""
    found = {path.parents[2].name if path.parents[1].name == "contents" else path.stem: path for path in wallpapers()}
    absent = [name for name in PICTURES[split] if name not in found]
    if absent:
        raise SourceMissing(f"no wallpaper called {absent[0]} in {', '.join(PACKAGES)}")
    return [found[name] for name in PICTURES[split]]


def texture(frame: np.ndarray) -> float:
    """Mean difference of neighbours in a frame (H, W, 3), in levels, the smaller of along rows and along columns."""
    return min(float(np.abs(np.diff(frame.astype(np.float32), axis=axis)).mean()) for axis in (0, 1))


def write_motions(folder: Path, counts: Mapping[str, int]) -> None:
    """Shard sets `train` and `test` of so many clips.

    Raises:
        SourceMissing: if the wallpapers cannot be had.
    """
    fields = {"frames": Field(kind="array"), "label": Field(kind="int", classes=MOTIONS)}
    for split in ("train", "test"):
        write_shards(folder / split, motion_clips(split, counts[split]), fields, format="ffcv")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headrace.benchmarks.motions", description="Clips whose motion is the label.")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the shard sets train and test")
    for split, count in COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"clips (default {count})")
    options = parser.parse_args(arguments)
    try:
        write_motions(options.out, {split: getattr(options, split) for split in COUNTS})
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
