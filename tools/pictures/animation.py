"""Clips that play: an animated picture with the numbers of each clip below it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from headrace.shards.printing import printable

SUFFIX = ".webp"
MILLISECONDS = 150
"""Of a frame."""
SMALLEST = 128
"""Side to which smaller clips are drawn at least, in pixels: by a whole factor, without smoothing."""
COLUMNS = 4
_FONT_SIZE, _LINE, _GAP = 11, 14, 8  # pixels


@dataclass(frozen=True, kw_only=True)
class Playing:
    """One clip of an animated picture."""

    frames: NDArray[np.uint8]
    """uint8 (T, H, W, 3), in the order in which they are shown."""
    numbers: Sequence[int]
    """T numbers of frames of the video."""
    title: str
    """Words between dots, in as many lines as they need."""


def animated(clips: Sequence[Playing]) -> bytes:
    """A WebP of all clips side by side, which plays without end. A shorter clip waits at its last frame.

    Args:
        clips: at least one, all of the same height and width.
    """
    tiles = [_enlarged(clip.frames) for clip in clips]
    height, width = tiles[0].shape[1:3]
    font = ImageFont.load_default(size=_FONT_SIZE)
    words = [_lines(printable(clip.title), width, font) for clip in clips]
    under = _LINE * (1 + max(map(len, words)))  # and the number of the frame
    columns = min(COLUMNS, len(clips))
    rows = -(-len(clips) // columns)
    size = columns * (width + _GAP) + _GAP, rows * (height + under + _GAP) + _GAP
    ground = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(ground)
    corners = [
        (_GAP + (width + _GAP) * (number % columns), _GAP + (height + under + _GAP) * (number // columns))
        for number in range(len(clips))
    ]
    for (left, top), lines in zip(corners, words, strict=True):
        for number, line in enumerate(lines, 1):
            pen.text((left, top + height + _LINE * number), line, fill=(90, 90, 90), font=font)
    pictures = []
    for t in range(max(map(len, tiles))):
        picture = ground.copy()
        pen = ImageDraw.Draw(picture)
        for clip, tile, (left, top) in zip(clips, tiles, corners, strict=True):
            now = min(t, len(tile) - 1)
            picture.paste(Image.fromarray(tile[now]), (left, top))
            pen.text((left, top + height), f"frame {clip.numbers[now]}", fill="black", font=font)
        pictures.append(picture)
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0, quality=85
    )
    return buffer.getvalue()


def save_animated(clips: Sequence[Playing], picture: Path) -> Path:
    """Write the animated picture beside another one of the same name, and return its path."""
    out = picture.with_suffix(SUFFIX)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(animated(clips))
    return out


def webp_uri(data: bytes) -> str:
    """A WebP as a `data:` address."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _enlarged(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = -(-SMALLEST // max(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _lines(title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The title's words between dots, as many of them in a line as fit; a single word may be cut off at the edge."""
    lines: list[str] = []
    for word in title.split(" · "):
        longer = f"{lines[-1]} · {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
