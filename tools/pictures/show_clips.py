"""Strips of the clips that a method will see, each with the numbers that made it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headrace.pipeline import ClipSpec, DrawnClips, RunningCellMask, TubeBlockMask, TubeMask
from headrace.pipeline.masks import Masks, MaskSpec
from headrace.shards.printing import printable
from headrace.tools.pictures.animation import Playing
from headrace.tools.pictures.canvas import blank
from headrace.tools.pictures.delivered import Delivered
from headrace.tools.pictures.masks import count_in_words, masked


def clips_of(one: Delivered, *, masks: bool = False) -> list[Playing]:
    """The clips of a stream of videos, or with `masks` each mask's clip before and behind it."""
    spec: Any = one.spec
    found = []
    for row, title in enumerate(one.titles):
        clips = [_clip(one, title, row, k) for k in range(len(spec))]
        if not masks:
            found += clips
            continue
        for number, mask_spec in enumerate(spec.masks):
            clip = clips[min(number, len(clips) - 1)]
            mask = type(one.part.masks[number])(*(part[row : row + 1] for part in one.part.masks[number]))
            found += [clip, _behind(clip, mask_spec, mask, number)]
    return found


def _clip(one: Delivered, title: str, row: int, k: int) -> Playing:
    spec: Any = one.spec
    drawn: DrawnClips = one.part.drawn
    return Playing(
        frames=one.part.views[k][row].permute(1, 2, 3, 0).numpy(),
        numbers=drawn.frames[row, k, : spec.clips[k].frames].tolist(),
        title=" · ".join([title, *clip_words(spec, drawn, row, k)]),
    )


def _behind(clip: Playing, spec: MaskSpec, mask: Masks, number: int) -> Playing:
    """A clip with what a mask hides of it dimmed. A step of the mask's time is as many frames as fit."""
    steps = spec.frames if isinstance(spec, TubeMask | TubeBlockMask | RunningCellMask) else 1
    frames = [masked(frame, spec, mask, t * steps // len(clip.frames)) for t, frame in enumerate(clip.frames)]
    words = f"mask {number}: {type(spec).__name__}, {count_in_words(mask)}"
    return Playing(frames=np.stack(frames), numbers=clip.numbers, title=words.replace("\n", ", "))


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
    if drawn.sequence[row, k] >= 0:
        words.append(f"place {int(drawn.sequence[row, k])} in time")
    words.append(f"crop {height}x{width} at {top},{left}")
    return words + (["flip"] if drawn.flip[row, k] else [])


STRIP = 16
"""Frames of a strip; of a longer clip as many, evenly spaced."""


def draw_clips(rows: list[Playing], title: str) -> Figure:
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


def strip(shown: Playing) -> tuple[NDArray[np.uint8], list[float], list[int]]:
    """(picture, middle of each frame in it in pixels, number of each frame)."""
    count = min(STRIP, len(shown.frames))
    chosen = np.linspace(0, len(shown.frames) - 1, count).round().astype(int).tolist()
    size = shown.frames.shape[2]
    gap = max(2, size // 40)
    picture = np.full((shown.frames.shape[1], count * size + (count - 1) * gap, 3), 255, np.uint8)
    for place, t in enumerate(chosen):
        picture[:, place * (size + gap) : place * (size + gap) + size] = shown.frames[t]
    return picture, [place * (size + gap) + size / 2 for place in range(count)], [shown.numbers[t] for t in chosen]
