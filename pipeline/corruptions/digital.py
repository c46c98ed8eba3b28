"""What programs and cameras do to levels from 0 to 1. All take (x (S, S, 3), parameters, random)."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from headrace.pipeline.corruptions.filters import Floats
from headrace.pipeline.corruptions.parameters import table_of

LUMA = np.array([0.299, 0.587, 0.114])
"""Grey of red, green and blue (ITU-R BT.601)."""


def contrast(x: Floats, factor: float, random: np.random.Generator) -> Floats:
    """Around the mean of each channel."""
    means = x.mean(axis=(0, 1))
    return np.asarray((x - means) * factor + means)


def saturate(x: Floats, parameters: tuple[float, float], random: np.random.Generator) -> Floats:
    """HSV's saturation by a factor and a term. Grey has the hue of red, and so the term makes it reddish."""
    factor, term = parameters
    value, lowest = x.max(axis=2, keepdims=True), x.min(axis=2, keepdims=True)
    spread = value - lowest
    saturation = spread / np.where(value > 0, value, 1.0)
    wanted = np.clip(saturation * factor + term, 0.0, 1.0)
    red = np.array([0.0, 1.0, 1.0])  # how far channels lie below the value, as a share of the spread
    below = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1.0), red)
    return np.asarray(value * (1 - wanted * below))


def jpeg_compression(x: Floats, quality: int, random: np.random.Generator) -> Floats:
    stream = io.BytesIO()
    _image(x).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.float64) / 255


def pixelate(x: Floats, share: float, random: np.random.Generator) -> Floats:
    """Shrunk to a share of the sides and enlarged again, each by the mean of the pixels that it covers."""
    size = len(x)
    small = _image(x).resize((int(size * share),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BOX), np.float64) / 255


def _image(x: Floats) -> Image.Image:
    return Image.fromarray(np.rint(x * 255).astype(np.uint8))


def elastic_transform(x: Floats, parameters: tuple[float, float, float], random: np.random.Generator) -> Floats:
    """A small affine change of three points, then smooth shifts of all pixels.

    The parameters count in 32nds of the picture's side, or in 244ths by the table of 224 pixels, where the authors
    wrote 244 for 224.
    """
    size = len(x)
    unit = size * 244 / 224 if table_of(size) == 224 else size
    amplitude, sigma, move = (number * unit for number in parameters)
    centre, third = size // 2, size // 3
    before = np.array([[centre + third, centre + third], [centre + third, centre - third], [centre - third] * 2], float)
    after = before + random.uniform(-move, move, before.shape)  # (3, 2) of x, y
    # Where a pixel of the result comes from: x and y of the source are linear in (x, y, 1).
    source = np.linalg.lstsq(np.c_[after, np.ones(3)], before, rcond=None)[0]  # (3, 2)
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    from_x, from_y = np.moveaxis(np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ source, -1, 0)
    moved = _sampled(x, from_y, from_x, "mirror")
    right, down = (
        amplitude * ndimage.gaussian_filter(random.uniform(-1, 1, (size, size)), sigma, mode="reflect", truncate=3.0)
        for _ in range(2)
    )
    return _sampled(moved, rows + down, columns + right, "reflect")


def _sampled(x: Floats, rows: Floats, columns: Floats, mode: str) -> Floats:
    """Linear interpolation at places (S, S), each channel alike."""
    at = np.stack([rows, columns])
    channels = [ndimage.map_coordinates(x[:, :, channel], at, order=1, mode=mode) for channel in range(3)]
    return np.stack(channels, axis=-1)
