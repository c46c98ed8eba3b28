"""What a method will see: stored samples beside their views, masks and tiles, each with the numbers that made it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from headrace.pipeline import Loader, RegionMask, Tiles, ViewSpec, permutation_set, plan
from headrace.pipeline.images.decode import decode_image
from headrace.pipeline.images.masks import BlockMasks, ContextMasks, Masks, MaskSpec, PatchMasks, RegionMasks
from headrace.shards import ShardSet, open_shards
from headrace.shards.printing import printable
from headrace.shards.remote.remote import redact
from headrace.tools.errors import UserError
from headrace.tools.fields import image_field

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
    masks: list[Masks]
    """One for each of the specification's masks, one row each."""
    labels: list[int]
    """One for each `Tiles` and `PatchPair`."""


def augmented(shards: ShardSet, spec: ViewSpec, *, count: int, seed: int = 0, epoch: int = 0) -> list[Shown]:
    """The first `count` samples of the epoch's order (fewer where the set has fewer) with their views."""
    image_field(shards)
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
            masks=[type(mask)(*(part[row : row + 1] for part in mask)) for mask in batch.masks],
            labels=drawn.arrangement[row].tolist(),
        )
        for row, (i, original) in enumerate(zip(ids, originals, strict=True))
    ]


def pixels(shards: ShardSet, i: int) -> NDArray[np.uint8]:
    """The stored image of sample `i`, decoded: uint8 (H, W, 3)."""
    stored = shards.read(i)[image_field(shards)]
    return stored if isinstance(stored, np.ndarray) else decode_image(stored)


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


def show(
    what: str,
    path: str | os.PathLike[str],
    spec: ViewSpec,
    out: Path,
    *,
    count: int = 6,
    seed: int = 0,
    epoch: int = 0,
) -> None:
    """Draw `count` samples into the picture `out`.

    Args:
        what: a key of `PICTURED`.

    Raises:
        UserError: if the name of `out` is no picture's, `count` is not positive, or there is nothing of `what` to draw.
        ShardError: if the shard set at `path` cannot be read.
    """
    check_request(out, count)
    if what == "masks" and not spec.masks:
        raise UserError("these views come without masks; draw `views` instead")
    if what == "tiles" and not spec.arranged:
        raise UserError("these views are neither tiles nor a pair of patches; draw `views` instead")
    with open_shards(path) as shards:
        rows = augmented(shards, spec, count=count, seed=seed, epoch=epoch)
    save(PICTURED[what](rows, spec, f"{os.path.basename(redact(os.fspath(path)))}, seed {seed}, epoch {epoch}"), out)


def save(figure: Figure, out: Path) -> None:
    """Write a picture, in a folder that is made where there is none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # letters of keys that no font here has
        figure.savefig(out, dpi=130, facecolor="white")


def check_request(out: Path, count: int) -> None:
    """UserError unless samples can be drawn into this file."""
    check_picture(out)
    if count < 1:
        raise UserError(f"at least one sample has to be shown, not {count}")


def check_picture(out: Path) -> None:
    """UserError unless this is a picture's name."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"{out}: the name of a picture ends in one of {', '.join(PICTURES)}")


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


def masked(view: NDArray[np.uint8], spec: MaskSpec, mask: Masks) -> NDArray[np.uint8]:
    """A view with what is hidden dimmed, and the targets of a context in colours: uint8 (S, S, 3).

    Of a mask over frames the first frame is drawn.
    """
    size = len(view)
    out = view.astype(np.float32)
    if isinstance(mask, RegionMasks):
        return _tinted(out, mask.mask[0].numpy(), _GRAY, 0.8).astype(np.uint8)
    assert not isinstance(spec, RegionMask)
    rows, columns = spec.grid
    pixel = np.arange(size)
    patch = (pixel * rows // size)[:, None] * columns + pixel * columns // size  # (S, S): the patch of each pixel

    def covered(patches: NDArray[Any]) -> NDArray[np.bool_]:
        flags = np.zeros(rows * columns, np.bool_)
        flags[patches] = True
        return flags[patch]

    if isinstance(mask, PatchMasks):
        of_frame = mask.masked[0].numpy()
        return _tinted(out, covered(of_frame[of_frame < rows * columns]), _GRAY, 0.8).astype(np.uint8)
    if isinstance(mask, BlockMasks):
        return _tinted(out, mask.masked[0].numpy()[patch], _GRAY, 0.8).astype(np.uint8)
    context = mask.context[0, : mask.context_count[0]].numpy()
    out = _tinted(out, ~covered(context), _GRAY, 0.8)
    for number, count in enumerate(mask.target_count[0].tolist()):
        target = covered(mask.targets[0, number, :count].numpy())
        out = _tinted(np.where(target[..., None], view, out), target, _colour(number), 0.45)
    return out.astype(np.uint8)


_GRAY = np.array([128.0, 128.0, 128.0])


def _colour(number: int) -> NDArray[np.float64]:
    return 255 * np.array(to_rgb(f"C{number % 10}"))


def _tinted(image: NDArray[Any], where: NDArray[np.bool_], colour: NDArray[Any], share: float) -> NDArray[Any]:
    return np.where(where[..., None], (1 - share) * image + share * colour, image)


def count_in_words(mask: Masks) -> str:
    """What one sample's mask hides, in numbers."""
    if isinstance(mask, PatchMasks):
        return f"{mask.visible.shape[1]} patches visible, {mask.masked.shape[1]} masked"
    if isinstance(mask, BlockMasks):
        return f"{int(mask.masked_count[0])} of {mask.masked.shape[1]} patches masked"
    if isinstance(mask, ContextMasks):
        targets = " + ".join(map(str, mask.target_count[0].tolist()))
        return f"context of {int(mask.context_count[0])} patches, targets of {targets}"
    boxes = [f"{height}x{width} at {top},{left}" for top, left, height, width in mask.boxes[0].tolist()]
    return "\n".join([f"{float(mask.mask.float().mean()):.0%} hidden", *boxes])


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
                order = permutation_set(len(part), part.permutations)[label].tolist()
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


PICTURED = {"views": draw_views, "masks": draw_masks, "tiles": draw_tiles}
"""What can be drawn."""


def blank(inches: tuple[float, float], title: str) -> Figure:
    """A figure without anything but its title."""
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(title), fontsize=10, parse_math=False)
    return figure


def picture(axis: Any, pixels: NDArray[np.uint8], text: str) -> None:
    """An image without ticks, with text below."""
    axis.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 128 else "antialiased")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(printable(text, "\n"), fontsize=6, color="0.35", parse_math=False)


def outline(axis: Any, box: Sequence[int], colour: str, name: str = "") -> None:
    """A rectangle (top, left, height, width) on an image, with its name in the upper left corner."""
    top, left, height, width = box
    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=colour, clip_on=False))
    if name:
        ground = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        axis.text(left, top, name, fontsize=7, color="white", va="top", bbox=ground)


def lines(text: str) -> str:
    """A caption with one draw a line."""
    return text.replace(" · ", "\n")
