"""What a method will see: stored samples beside their augmented views, each with the numbers that made it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from headrace.pipeline import Loader, ViewSpec, plan
from headrace.pipeline.decode import decode_image
from headrace.shards import ShardSet, open_shards
from headrace.tools.errors import UserError

PICTURES = (".png", ".svg", ".pdf", ".jpg")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One sample and its views."""

    key: str
    """The sample's key in the shard set."""
    original: NDArray[np.uint8]
    """uint8 (H, W, 3), as stored."""
    views: list[NDArray[np.uint8]]
    """V pictures of shape (size, size, 3)."""
    crops: list[tuple[int, int, int, int]]
    """V boxes of `original`: top, left, height, width."""
    captions: list[str]
    """V lines: the plan's numbers of each view."""


def augmented(shards: ShardSet, spec: ViewSpec, *, count: int, seed: int = 0, epoch: int = 0) -> list[Shown]:
    """The first `count` samples of the epoch's order (fewer where the set has fewer) with their views."""
    with Loader(shards, spec, min(count, len(shards)), seed=seed, prefetch=1) as loader:
        loader.epoch = epoch
        batch = next(iter(loader))
    ids = batch.index.numpy()
    views = [view.permute(0, 2, 3, 1).numpy() for view in batch.views]
    originals = [pixels(shards, int(i)) for i in ids]
    sizes = np.array([original.shape[:2] for original in originals], np.int32)
    drawn = plan(spec, seed, epoch, ids, sizes)
    return [
        Shown(
            key=shards.key(int(i)),
            original=original,
            views=[view[row] for view in views],
            crops=[tuple(drawn.crop[row, v].tolist()) for v in range(len(spec))],
            captions=[caption(drawn.describe(row, v)) for v in range(len(spec))],
        )
        for row, (i, original) in enumerate(zip(ids, originals, strict=True))
    ]


def pixels(shards: ShardSet, i: int, field: str = "image") -> NDArray[np.uint8]:
    """The stored image of sample `i`, decoded: uint8 (H, W, 3)."""
    stored = shards.read(i)[field]
    return stored if isinstance(stored, np.ndarray) else decode_image(stored)


def caption(draws: dict[str, Any]) -> str:
    """A plan's words as one line, such as "crop 21x19 at 3,4 · flip · brightness 1.2"."""
    top, left, height, width = draws["crop"]
    words = [f"crop {height}x{width} at {top},{left}"]
    words += [name if value is True else f"{name} {value:.2f}" for name, value in draws.items() if name != "crop"]
    return " · ".join(words)


def show_views(
    path: str | os.PathLike[str], spec: ViewSpec, out: Path, *, count: int = 6, seed: int = 0, epoch: int = 0
) -> None:
    """Draw the views of `count` samples, one row a sample, into the picture `out`.

    Raises:
        UserError: if the name of `out` is no picture's, or `count` is not positive.
        ShardError: if the shard set at `path` cannot be read.
    """
    check_picture(out)
    if count < 1:
        raise UserError(f"at least one sample has to be shown, not {count}")
    with open_shards(path) as shards:
        rows = augmented(shards, spec, count=count, seed=seed, epoch=epoch)
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, f"{os.path.basename(path)}, seed {seed}, epoch {epoch}").savefig(out, dpi=130, facecolor="white")


def check_picture(out: Path) -> None:
    """UserError unless this is a picture's name."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"{out}: the name of a picture ends in one of {', '.join(PICTURES)}")


def draw(rows: list[Shown], title: str) -> Figure:
    """The picture: originals with the boxes of their crops in the first column, views in the others."""
    columns = 1 + len(rows[0].views)
    figure = Figure(figsize=(2.1 * columns, 2.6 * len(rows) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, shown in zip(axes, rows, strict=True):
        captions = [shown.key, *(text.replace(" · ", "\n") for text in shown.captions)]
        for axis, picture, text in zip(line, [shown.original, *shown.views], captions, strict=True):
            axis.imshow(picture, interpolation="nearest" if max(picture.shape) < 128 else "antialiased")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(text, fontsize=6, color="0.35")
        for v, (top, left, height, width) in enumerate(shown.crops):
            box = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=f"C{v}", clip_on=False)
            line[0].add_patch(box)
    axes[0, 0].set_title("stored", fontsize=9)
    for v in range(columns - 1):
        axes[0, 1 + v].set_title(f"view {v}", fontsize=9, color=f"C{v}")
    return figure
