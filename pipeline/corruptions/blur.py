"""Blurs of levels from 0 to 1. All take (x (S, S, 3), parameters, random)."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.corruptions.filters import Floats, along_a_line, convolved, disc, gaussian, zoomed


def gaussian_blur(x: Floats, sigma: float, random: np.random.Generator) -> Floats:
    return gaussian(x, sigma)


def defocus_blur(x: Floats, parameters: tuple[float, float], random: np.random.Generator) -> Floats:
    """With a disc of a radius, in pixels, and a deviation that softens it."""
    return convolved(x, disc(*parameters))


def glass_blur(x: Floats, parameters: tuple[float, int, int], random: np.random.Generator) -> Floats:
    """Blurred, pixels strewn by at most `shift` places in several passes, and blurred again.

    The authors mean to exchange two pixels; their line copies the farther one over the nearer instead, and so does
    this.
    """
    sigma, shift, passes = parameters
    levels = (gaussian(x, sigma) * 255 + 1e-4).astype(np.uint8)
    inner = len(x) - 2 * shift
    offsets = random.integers(-shift, shift, (passes, inner, inner, 2))
    _strew(levels, offsets, shift)
    return gaussian(levels / 255, sigma)


@kernel
def _strew(levels, offsets, shift):
    """In place. `offsets`: (passes, n, n, 2), right and down, in the order in which pixels have their turn: from the
    last row and column to the first."""
    passes, n = offsets.shape[:2]
    last = levels.shape[0] - shift
    for once in range(passes):
        for i in range(n):
            for j in range(n):
                right, down = offsets[once, i, j]
                for channel in range(3):
                    levels[last - i, last - j, channel] = levels[last - i + down, last - j + right, channel]


def motion_blur(x: Floats, parameters: tuple[int, float], random: np.random.Generator) -> Floats:
    """See `along_a_line`; to whole levels, as ImageMagick gives them, which the authors had blur."""
    return np.rint(255 * along_a_line(x, *parameters, angle=random.uniform(-45, 45))) / 255


def zoom_blur(x: Floats, parameters: tuple[float, float], random: np.random.Generator) -> Floats:
    """The mean of the picture and its enlargements by 1, 1 + step, ... below a factor."""
    factors = np.arange(1, *parameters)
    return (x + sum(zoomed(x, float(factor)) for factor in factors)) / (len(factors) + 1)
