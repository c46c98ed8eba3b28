"""Scenes before a moving camera whose depth is known: a small set of clips for depth and ego-motion.

    python -m headrace.benchmarks.parallax OUT [--train N] [--test N]
    python -m headrace.benchmarks.parallax OUT --judge RUN

Photographs (`headrace.benchmarks.motions`) lie on a floor, hang on a far wall and stand on the floor as boards. A
camera at a height of 1 above the floor, whose intrinsics are `INTRINSICS`, goes left, right, forwards or backwards and
turns a little. Rays are followed, so that the depth of the middle frame is exact. Test clips are of other photographs
than training clips. Each clip is a stack of 5 frames of 64 x 64 pixels and depends on its split and number alone.

`--judge` gives the error of a run's depth on the test clips, |found - true| / true, mean over pixels and then over
clips, where what is found is first brought to the median of what is true, as nobody knows its unit; beside it that of
the same network without training and that of the same depth everywhere.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.motions import shrunk, sources
from headrace.shards import Field, write_shards

WAYS = ("left", "right", "forwards", "backwards")
"""In which the camera goes. The class is the position here."""
FRAMES = 5
SIDE = 64
"""Of a frame, in pixels."""
FOCAL = 52.0
INTRINSICS = (FOCAL, FOCAL, SIDE / 2, SIDE / 2)
"""Focal lengths and principal point, in pixels."""
COUNTS = {"train": 1200, "test": 300}

STEP = (0.08, 0.16)
"""Way of the camera from a frame to the next, from and to."""
TURN = 0.6
"""Degrees by which it turns left or right from a frame to the next, at most."""
WALL = (7.0, 11.0)
"""Distance of the wall."""
BOARDS = 3
BOARD_DISTANCE, BOARD_WIDTH, BOARD_HEIGHT = (2.2, 6.0), (0.5, 1.3), (0.6, 1.6)
DETAIL = 36.0
"""Pixels of a photograph on a length of 1, on the floor and on boards; on the wall a fifth of it."""
FINER = 2
"""Rays of a pixel, along each side."""


@dataclass(frozen=True)
class Surface:
    """A rectangle: a point, two directions along its sides of length 1, and what is on it."""

    point: Tensor
    across: Tensor
    down: Tensor
    reach: tuple[float, float, float, float]
    """Along both sides, from and to."""
    picture: Tensor
    """(3, H, W) in levels."""
    start: Tensor
    """(2,): where in the picture its point lies, in pixels."""
    detail: float


def scene(random: np.random.Generator, pictures: Sequence[Tensor]) -> list[Surface]:
    """Floor, wall and boards."""
    wall = float(random.uniform(*WALL))
    across, down, ahead = torch.eye(3, dtype=torch.float64)
    places = [
        (torch.tensor([0.0, 1.0, 0.0]).double(), across, ahead, (-99.0, 99.0, -9.0, wall), DETAIL),
        (torch.tensor([0.0, 1.0, wall]).double(), across, down, (-99.0, 99.0, -99.0, 0.0), DETAIL / 5),
    ]
    for _ in range(BOARDS):
        distance, width, height = (
            float(random.uniform(*limits)) for limits in (BOARD_DISTANCE, BOARD_WIDTH, BOARD_HEIGHT)
        )
        side = float(random.uniform(-0.55, 0.55)) * distance
        foot = torch.tensor([side, 1.0, distance], dtype=torch.float64)
        places.append((foot, across, down, (-width / 2, width / 2, -height, 0.0), DETAIL))
    surfaces = []
    for point, u, v, reach, detail in places:
        picture = pictures[int(random.integers(len(pictures)))]
        start = torch.tensor([float(random.uniform(0.3, 0.7)) * side for side in picture.shape[:0:-1]]).double()
        surfaces.append(Surface(point, u, v, reach, picture, start, detail))
    return surfaces


def way(random: np.random.Generator, label: int) -> tuple[Tensor, float]:
    """Where the camera goes from a frame to the next, (3,), and by how many radians it turns to the right."""
    step, turn = float(random.uniform(*STEP)), math.radians(float(random.uniform(-TURN, TURN)))
    directions = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    return step * directions[label], turn


def facing(turn: float) -> Tensor:
    """(3, 3): from the world's coordinates to those of a camera that is turned to the right by `turn` radians."""
    cosine, sine = math.cos(turn), math.sin(turn)
    return torch.tensor([[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]], dtype=torch.float64)


def seen(surfaces: Sequence[Surface], origin: Tensor, turn: float, side: int) -> tuple[Tensor, Tensor]:
    """Levels (3, side, side) and depths (side, side) along the camera's axis, of a camera at `origin` (3,) that is
    turned to the right by `turn` radians, with `INTRINSICS` of a frame of `SIDE`."""
    middles = (torch.arange(side, dtype=torch.float64) + 0.5) * SIDE / side
    x, y = (middles - INTRINSICS[2]) / FOCAL, (middles - INTRINSICS[3]) / FOCAL
    rays = torch.stack([x.expand(side, -1), y[:, None].expand(-1, side), torch.ones(side, side).double()], dim=2)
    rays = rays @ facing(turn)
    nearest = torch.full((side, side), torch.inf, dtype=torch.float64)
    levels = torch.zeros(3, side, side)
    for each in surfaces:
        normal = torch.linalg.cross(each.across, each.down)
        depth = (normal @ (each.point - origin)) / (rays @ normal)
        depth = torch.where((depth > 1e-3) & depth.isfinite(), depth, torch.inf)
        there = origin + rays * torch.where(depth.isfinite(), depth, 0.0)[:, :, None] - each.point
        along = torch.stack([there @ each.across, there @ each.down], dim=2)
        left, right, top, bottom = each.reach
        inside = (along[..., 0] >= left) & (along[..., 0] <= right) & (along[..., 1] >= top) & (along[..., 1] <= bottom)
        shown = inside & (depth < nearest)
        nearest = torch.where(shown, depth, nearest)
        height, width = each.picture.shape[1:]
        places = each.start + each.detail * along
        grid = 2 * places / torch.tensor([width, height]) - 1
        found = F.grid_sample(
            each.picture[None], grid[None].float(), mode="bilinear", padding_mode="reflection", align_corners=False
        )
        levels = torch.where(shown, found[0], levels)
    return levels, nearest


def parallax_clips(split: Literal["train", "test"], count: int) -> Iterator[dict[str, Any]]:
    """The first `count` clips of a split, ways in turn.

    Raises:
        SourceMissing: if the photographs cannot be had.
    """
    pictures = [shrunk(path) for path in sources(split)]
    for number in range(count):
        label = number % len(WAYS)
        random = np.random.Generator(np.random.Philox([10 + ("train", "test").index(split), number]))
        surfaces = scene(random, pictures)
        step, turn = way(random, label)
        frames, depth = [], torch.zeros(())
        for time in range(FRAMES):
            since = time - FRAMES // 2
            levels, _ = seen(surfaces, since * step, since * turn, SIDE * FINER)
            frames.append(F.avg_pool2d(levels, FINER).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
            if not since:
                depth = seen(surfaces, torch.zeros(3).double(), 0.0, SIDE)[1]
        yield {
            "__key__": f"{number:06d}",
            "frames": np.stack(frames),
            "depth": depth.float().numpy(),
            "label": label,
        }


def write_parallax(folder: Path, counts: Mapping[str, int]) -> None:
    """Shard sets `train` and `test` of so many clips.

    Raises:
        SourceMissing: if the photographs cannot be had.
    """
    fields = {
        "frames": Field(kind="array"),
        "depth": Field(kind="array"),
        "label": Field(kind="int", classes=WAYS),
    }
    for split in ("train", "test"):
        write_shards(folder / split, parallax_clips(split, counts[split]), fields, format="ffcv")


def relative_error(found: Tensor, true: Tensor) -> Tensor:
    """(B,): |found - true| / true, mean over pixels, with what is found brought to the true median.

    Args:
        found, true: (B, H, W), positive.
    """
    medians = [each.flatten(1).median(dim=1).values[:, None, None] for each in (true, found)]
    found = found * medians[0] / medians[1]
    return ((found - true).abs() / true).flatten(1).mean(dim=1)


@torch.no_grad()
def judged(depth: Any, path: Path) -> float:
    """The error of a function that gives depths (B, 1, H, W) of normalised middle frames, on a shard set of `WAYS`."""
    from headrace.models.methods.video.monodepth2 import Monodepth2Config
    from headrace.pipeline import Clip, ClipSpec, Loader, View
    from headrace.shards import open_shards

    view = View(size=SIDE, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, normalize=Monodepth2Config().normalize)
    spec = ClipSpec([Clip(frames=1, strides=(1,), place="center", view=view)])
    errors = []
    with open_shards(path) as shards, Loader(shards, spec, 50, shuffle=False, drop_last=False) as loader:
        for batch in loader:
            true = torch.stack([torch.from_numpy(shards.read(int(i))["depth"]) for i in batch.index])
            errors.append(relative_error(depth(batch.normalized()[0][:, :, 0])[:, 0], true))
    return float(torch.cat(errors).mean())


def judge(run: Path, path: Path) -> dict[str, float]:
    """Errors of a run's depth, of its network without training, and of the same depth everywhere."""
    from headrace.models import build_method
    from headrace.train import load_run

    config, trained = load_run(run)
    fresh: Any = build_method(config.method, config.model, seed=config.seed).eval()
    return {
        "trained": judged(trained.eval().depth, path),
        "untrained": judged(fresh.depth, path),
        "constant": judged(lambda images: torch.ones_like(images[:, :1]), path),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headrace.benchmarks.parallax", description="Clips whose depth is known.")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the shard sets train and test")
    for split, count in COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"clips (default {count})")
    parser.add_argument("--judge", metavar="RUN", type=Path, help="give the errors of a run's depth on OUT/test")
    options = parser.parse_args(arguments)
    try:
        if options.judge is None:
            write_parallax(options.out, {split: getattr(options, split) for split in COUNTS})
        else:
            for name, error in judge(options.judge, options.out / "test").items():
                print(f"{name}: {error:.3f}")
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
