"""Stored images beside their views, masks and tiles, each with the numbers that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headrace.pipeline import Tiles, ViewSpec, plan
from headrace.pipeline.images.decode import decode_image
from headrace.pipeline.masks import Masks, RegionMasks
from headrace.shards import ShardSet
from headrace.shards.formats.orientation import orientation_in
from headrace.tools.fields import image_field
from headrace.tools.pictures.canvas import blank, lines, outline, picture
from headrace.tools.pictures.delivered import Delivered, delivered
from headrace.tools.pictures.masks import count_in_words, masked


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One sample and its views."""

    key: str
    """The sample's key in the shard set."""
    original: NDArray[np.uint8]
    """uint8 (H, W, 3): the whole picture, as it is to be shown."""
    views: list[NDArray[np.uint8]]
    """V pictures of shape (size, size, 3)."""
    crops: list[tuple[int, int, int, int]]
    """V boxes of `original`: top, left, height, width."""
    captions: list[str]
    """V lines: the plan's numbers of each view."""
    masks: list[Masks]
    """One for each of the specification's masks, one row each."""
    labels: list[int]
    """One for each `Tiles` and `PatchPair`."""


def augmented(shards: ShardSet, spec: ViewSpec, *, count: int, seed: int = 0, epoch: int = 0) -> list[Shown]:
    """The first `count` samples of the epoch's order (fewer where the set has fewer) with their views.

    Raises:
        UserError: if the set has no images.
    """
    (one,) = delivered(shards, spec, count=count, seed=seed, epoch=epoch).values()
    return views_of(shards, one)


def views_of(shards: ShardSet, one: Delivered) -> list[Shown]:
    """The samples of a stream of images."""
    spec: Any = one.spec
    views = [view.permute(0, 2, 3, 1).numpy() for view in one.part.views]
    originals = [pixels(shards, int(i), spec.field) for i in one.index]
    sizes = np.array([original.shape[:2] for original in originals], np.int32)
    drawn = plan(spec, one.seed, one.epoch, one.index, sizes)
    return [
        Shown(
            key=one.titles[row],
            original=original,
            views=[view[row] for view in views],
            crops=[tuple(drawn.crop[row, v].tolist()) for v in range(len(spec))],
            captions=[caption(drawn.describe(row, v)) for v in range(len(spec))],
            masks=[type(mask)(*(part[row : row + 1] for part in mask)) for mask in one.part.masks],
            labels=drawn.arrangement[row].tolist(),
        )
        for row, original in enumerate(originals)
    ]


def pixels(shards: ShardSet, i: int, field: str | None = None) -> NDArray[np.uint8]:
    """The image of sample `i`, decoded and turned: uint8 (H, W, 3). `field` as in `ViewSpec`."""
    name = field or image_field(shards)
    sample = shards.read(i, [name])
    stored = sample[name]
    return stored if isinstance(stored, np.ndarray) else decode_image(stored, orientation_in(sample, name))


def caption(draws: dict[str, Any]) -> str:
    """A plan's words as one line, such as "crop 21x19 at 3,4 · flip · brightness 1.2"."""
    top, left, height, width = draws["crop"]
    words = [f"crop {height}x{width} at {top},{left}"]
    words += [_in_words(name, value) for name, value in draws.items() if name != "crop"]
    return " · ".join(words)


def _in_words(name: str, value: Any) -> str:
    if value is True:
        return name
    if isinstance(value, tuple):
        top, left, height, width = value
        return f"{name} {height}x{width} at {top},{left}"
    return f"{name} {value}" if isinstance(value, str) else f"{name} {value:.2f}"


def draw_views(rows: list[Shown], spec: ViewSpec, title: str) -> Figure:
    """The picture: originals with the boxes of their crops in the first column, views in the others."""
    columns = 1 + len(spec)
    figure = blank((2.1 * columns, 2.6 * len(rows) + 0.6), title)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, shown in zip(axes, rows, strict=True):
        picture(line[0], shown.original, shown.key)
        for v in range(len(spec)):
            picture(line[1 + v], shown.views[v], lines(shown.captions[v]))
            outline(line[0], shown.crops[v], f"C{v % 10}")
    axes[0, 0].set_title("stored", fontsize=9)
    for v in range(len(spec)):
        axes[0, 1 + v].set_title(f"view {v}", fontsize=9, color=f"C{v % 10}")
    return figure


def draw_masks(rows: list[Shown], spec: ViewSpec, title: str) -> Figure:
    """The picture: for each mask, the view that it belongs to and beside it what the mask leaves."""
    columns = 2 * len(spec.masks)
    figure = blank((2.4 * columns, 2.9 * len(rows) + 0.6), title)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, shown in zip(axes, rows, strict=True):
        for number, (mask_spec, mask) in enumerate(zip(spec.masks, shown.masks, strict=True)):
            v = min(number, len(spec) - 1)
            left, right = line[2 * number], line[2 * number + 1]
            picture(left, shown.views[v], f"{shown.key}\n{lines(shown.captions[v])}")
            picture(right, masked(shown.views[v], mask_spec, mask), count_in_words(mask))
            if isinstance(mask, RegionMasks):
                for box in mask.boxes[0].tolist():
                    outline(right, box, "red")
    for number, mask_spec in enumerate(spec.masks):
        axes[0, 2 * number].set_title(f"view {min(number, len(spec) - 1)}", fontsize=9)
        axes[0, 2 * number + 1].set_title(f"mask {number}: {type(mask_spec).__name__}", fontsize=9)
    return figure


_NEIGHBOURS = ("above left", "above", "above right", "left", "right", "below left", "below", "below right")


def draw_tiles(rows: list[Shown], spec: ViewSpec, title: str) -> Figure:
    """The picture: the stored image with numbered boxes, and beside it the tiles in the order of delivery."""
    arranged = spec.arranged
    figure = blank((8.5 * len(arranged), 5.2 * len(rows) + 0.4), title)
    cells = figure.subfigures(len(rows), len(arranged), squeeze=False)
    for line, shown in zip(cells, rows, strict=True):
        for cell, (first, part), label in zip(line, arranged, shown.labels, strict=True):
            left, right = cell.subfigures(1, 2, width_ratios=(1.1, 1))
            if isinstance(part, Tiles):
                order = part.orders[label].tolist()
                text, shape, names = (
                    f"permutation {label}: {' '.join(map(str, order))}",
                    part.grid,
                    list(map(str, order)),
                )
            else:
                text, shape, names = f"neighbour {label}: {_NEIGHBOURS[label]}", (1, 2), ["patch", "neighbour"]
            source = left.subplots()
            picture(source, shown.original, f"{shown.key}\n{text}")
            tiles = right.subplots(*shape, squeeze=False).ravel()
            for i, (axis, name) in enumerate(zip(tiles, names, strict=True)):
                colour = f"C{order[i] if isinstance(part, Tiles) else i}"
                picture(axis, shown.views[first + i], lines(shown.captions[first + i]))
                axis.set_title(name, fontsize=8, color=colour, pad=2)
                outline(source, shown.crops[first + i], colour, name)
    return figure
