"""Strips of the clips that a method will see, each with the numbers that made it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headrace.pipeline import ClipSpec, DrawnClips, Loader
from headrace.shards import ShardSet, open_shards
from headrace.shards.printing import printable
from headrace.shards.remote.remote import redact
from headrace.tools.errors import UserError
from headrace.tools.pictures.show import blank, check_request, save


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """One clip of a sample."""

    frames: NDArray[np.uint8]
    """uint8 (T, size, size, 3), in the order in which they are shown."""
    numbers: list[int]
    """T numbers of frames of the video."""
    title: str
    """Key of the sample and the plan's numbers of the clip."""


def clips_of(shards: ShardSet, spec: ClipSpec, *, count: int, seed: int = 0, epoch: int = 0) -> list[ShownClip]:
    """The clips of the first `count` samples of the epoch's order (fewer where the set has fewer)."""
    with Loader(shards, spec, min(count, len(shards)), seed=seed, prefetch=1) as loader:
        loader.epoch = epoch
        batch = next(iter(loader))
    assert isinstance(batch.drawn, DrawnClips)
    found = []
    for row, sample in enumerate(batch.index.tolist()):
        for k, (clip, view) in enumerate(zip(spec.clips, batch.views, strict=True)):
            numbers = batch.drawn.frames[row, k, : clip.frames].tolist()
            words = [shards.key(sample), *clip_words(spec, batch.drawn, row, k)]
            frames = view[row].permute(1, 2, 3, 0).numpy()
            found.append(ShownClip(frames=frames, numbers=numbers, title=" · ".join(words)))
    return found


def clip_words(spec: ClipSpec, drawn: DrawnClips, row: int, k: int) -> list[str]:
    """What was drawn for one clip, leaving out what does not apply."""
    clip = spec.clips[k]
    stride = clip.strides[int(drawn.pace[row, k])]
    first = int(drawn.frames[row, k, : clip.frames].min())
    top, left, height, width = drawn.crop[row, k].tolist()
    words = [f"clip {k}"] if len(spec) > 1 else []
    words += [f"start {first} of {int(drawn.length[row])}", f"stride {stride}"]
    if len(clip.strides) > 1:
        words[-1] += f" (pace {int(drawn.pace[row, k])})"
    if drawn.reversed[row, k]:
        words.append("reversed")
    if not drawn.ordered[row, k]:
        words.append("order " + " ".join(str(place) for place in drawn.permutation[row, k, : clip.frames].tolist()))
    if drawn.odd[row] == k:
        words.append("the odd one")
    words.append(f"crop {height}x{width} at {top},{left}")
    return words + (["flip"] if drawn.flip[row, k] else [])


def show_clips(
    path: str | os.PathLike[str], spec: ClipSpec, out: Path, *, count: int = 4, seed: int = 0, epoch: int = 0
) -> None:
    """Draw the clips of `count` videos, a strip of frames each, into the picture `out`. Raises as `show`."""
    check_request(out, count)
    with open_shards(path) as shards:
        try:
            rows = clips_of(shards, spec, count=count, seed=seed, epoch=epoch)
        except ValueError as error:  # the set holds no videos, say
            raise UserError(str(error)) from error
    save(draw_clips(rows, f"{os.path.basename(redact(os.fspath(path)))}, seed {seed}, epoch {epoch}"), out)


STRIP = 16
"""Frames of a strip; of a longer clip as many, evenly spaced."""


def draw_clips(rows: list[ShownClip], title: str) -> Figure:
    """The picture: a strip a clip, the number of each frame below it."""
    strips = [strip(shown) for shown in rows]
    width = min(15.0, max(7.0, 1.6 * max(len(numbers) for _, _, numbers in strips)))
    heights = [width * picture.shape[0] / picture.shape[1] + 0.45 for picture, _, _ in strips]
    figure = blank((width, sum(heights) + 0.5), title)
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)
    for (axis,), shown, (picture, places, numbers) in zip(axes, rows, strips, strict=True):
        axis.imshow(picture, interpolation="antialiased")
        axis.set_title(printable(shown.title), fontsize=8, loc="left", pad=3, parse_math=False)
        axis.set_xticks(places, [str(number) for number in numbers], fontsize=6, color="0.35")
        axis.tick_params(length=0, pad=2)
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    return figure


def strip(shown: ShownClip) -> tuple[NDArray[np.uint8], list[float], list[int]]:
    """(picture, middle of each frame in it in pixels, number of each frame)."""
    count = min(STRIP, len(shown.frames))
    chosen = np.linspace(0, len(shown.frames) - 1, count).round().astype(int).tolist()
    size = shown.frames.shape[2]
    gap = max(2, size // 40)
    picture = np.full((shown.frames.shape[1], count * size + (count - 1) * gap, 3), 255, np.uint8)
    for place, t in enumerate(chosen):
        picture[:, place * (size + gap) : place * (size + gap) + size] = shown.frames[t]
    return picture, [place * (size + gap) + size / 2 for place in range(count)], [shown.numbers[t] for t in chosen]
