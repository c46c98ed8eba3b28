"""What several corruptions are made of: lines, discs and zooms as linear filters, and clouds."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

Floats = npt.NDArray[np.float64]


def gaussian(image: Floats, sigma: float) -> Floats:
    """(H, W) or (H, W, C), blurred along rows and columns; 4 deviations wide, edges go on as they are, which is what
    `skimage.filters.gaussian` does."""
    blurred: Floats = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=4.0, axes=(0, 1))
    return blurred


def along_a_line(image: Floats, radius: int, sigma: float, angle: float) -> Floats:
    """(H, W) or (H, W, C), blurred from each pixel on towards one direction, edges going on as they are.

    Args:
        image: what to blur.
        radius: 2 radius + 1 pixels of the line count.
        sigma: their weights fall as a Gaussian of this deviation, in pixels.
        angle: of the line to the rows, in degrees.

    This is ImageMagick's motion blur with offsets that are rounded to whole pixels.
    """
    places = np.arange(2 * radius + 1)
    weights = np.exp(-(places**2) / (2 * sigma**2))
    weights /= weights.sum()
    down = np.ceil(places * math.sin(math.radians(angle)) - 0.5).astype(int)
    right = np.ceil(places * math.cos(math.radians(angle)) - 0.5).astype(int)
    reach = int(max(np.abs(down).max(), np.abs(right).max()))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    np.add.at(kernel, (reach + down, reach + right), weights)
    kernel = kernel.reshape(kernel.shape + (1,) * (image.ndim - 2))
    blurred: Floats = ndimage.correlate(image, kernel, mode="nearest")  # scipy skips the zeros of the kernel
    return blurred


@lru_cache(maxsize=32)
def disc(radius: float, sigma: float) -> Floats:
    """A disc of weights that sum to 1, its edge softened by a Gaussian of 3 x 3 taps, 5 x 5 above a radius of 8."""
    reach = 8 if radius <= 8 else math.ceil(radius)
    offsets = np.arange(-reach, reach + 1)
    hard = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    soft = np.exp(-(taps**2) / (2 * sigma**2))
    soft /= soft.sum()
    # OpenCV mirrors the kernel's own edges, which a disc of radius 8 and 10 touches.
    softened: Floats = ndimage.correlate(hard / hard.sum(), np.outer(soft, soft), mode="mirror")
    return softened


def convolved(image: Floats, kernel: Floats) -> Floats:
    """(H, W, C) with a symmetric kernel of odd sides; the picture is mirrored at its outermost pixels."""
    reach = len(kernel) // 2
    wide = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    result: Floats = signal.fftconvolve(wide, kernel[:, :, None], mode="valid", axes=(0, 1))
    return result


@lru_cache(maxsize=256)
def zooming(size: int, factor: float) -> Floats:
    """(size, size): a line of pixels to its centre, enlarged by a factor to as many pixels, linearly interpolated as
    `scipy.ndimage.zoom` does."""
    kept = math.ceil(size / factor)
    first = (size - kept) // 2
    enlarged = round(kept * factor)
    trimmed = (enlarged - size) // 2
    step = (kept - 1) / (enlarged - 1) if enlarged > 1 else 0.0
    at = (trimmed + np.arange(size)) * step
    below = np.minimum(np.floor(at).astype(int), kept - 1)
    share = at - below
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    matrix[rows, first + below] += 1 - share
    matrix[rows, first + np.minimum(below + 1, kept - 1)] += share
    return matrix


def zoomed(image: Floats, factor: float) -> Floats:
    """The centre of a square picture, (S, S) or (S, S, C), enlarged to its size."""
    matrix = zooming(len(image), factor)
    if image.ndim == 2:
        return np.asarray(matrix @ image @ matrix.T)
    channels = matrix @ np.moveaxis(image, -1, 0) @ matrix.T
    return np.asarray(np.moveaxis(channels, 0, -1))


def plasma(size: int, decay: float, random: np.random.Generator) -> Floats:
    """Clouds, (size, size) from 0 to 1 and seamless, by the diamond-square algorithm; the size is a power of two.

    Every midpoint is the mean of its four neighbours and a uniform deviation, whose range falls by `decay` squared from
    one scale to the next.
    """
    clouds = np.zeros((size, size))
    step, amplitude = size, 100.0
    while step >= 2:
        half = step // 2
        corners = clouds[::step, ::step]
        right = np.roll(corners, -1, axis=1)
        around = corners + right + np.roll(corners, -1, axis=0) + np.roll(right, -1, axis=0)
        clouds[half::step, half::step] = centres = _midpoints(around, amplitude, random)
        around = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        top = _midpoints(around, amplitude, random)
        around = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        left = _midpoints(around, amplitude, random)
        clouds[::step, half::step], clouds[half::step, ::step] = top, left
        step, amplitude = half, amplitude / decay
    clouds -= clouds.min()
    return clouds / clouds.max()


def _midpoints(around: Floats, amplitude: float, random: np.random.Generator) -> Floats:
    # The authors multiply the deviation by its own range, so that it falls by the square.
    return around / 4 + amplitude * random.uniform(-amplitude, amplitude, around.shape)
