"""What all pictures of samples are drawn on, and how they reach a file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from headrace.shards.printing import printable
from headrace.tools.errors import UserError

PICTURES = (".png", ".svg", ".pdf", ".jpg")
"""What a drawing may be written as."""


def save(figure: Figure, out: Path) -> None:
    """Write a picture, in a folder that is made where there is none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # letters of keys that no font here has
        figure.savefig(out, dpi=130, facecolor="white")


def check_request(out: Path, count: int) -> None:
    """UserError unless samples can be drawn into this file."""
    check_picture(out)
    check_count(count)


def check_count(count: int) -> None:
    """UserError unless there is a sample to be shown."""
    if count < 1:
        raise UserError(f"at least one sample has to be shown, not {count}")


def check_picture(out: Path) -> None:
    """UserError unless this is a picture's name."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"{out}: the name of a picture ends in one of {', '.join(PICTURES)}")


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
