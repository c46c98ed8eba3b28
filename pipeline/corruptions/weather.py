"""Weather on levels from 0 to 1. All take (x (S, S, 3), parameters, random)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from headrace.pipeline.corruptions.digital import LUMA
from headrace.pipeline.corruptions.filters import Floats, along_a_line, gaussian, plasma, zoomed
from headrace.pipeline.corruptions.parameters import table_of

FROSTS = (
    ((78, 149, 166), (27, 16, 15)),
    ((201, 205, 214), (21, 22, 23)),
    ((201, 205, 214), (21, 22, 23)),
    ((138, 153, 165), (28, 28, 30)),
    ((112, 123, 135), (44, 43, 42)),
)
"""Mean and deviation of red, green and blue in each of the five photographs that the authors draw from (the second and
the third are one), in levels to 255."""


def brightness(x: Floats, added: float, random: np.random.Generator) -> Floats:
    """Of HSV's value, so that hue and saturation stay."""
    value = x.max(axis=2, keepdims=True)
    bright = np.minimum(value + added, 1.0)
    return np.where(value > 0, x * (bright / np.where(value > 0, value, 1.0)), bright)


def fog(x: Floats, parameters: tuple[float, float], random: np.random.Generator) -> Floats:
    """Clouds, see `plasma`, of an amount and a decay; the map is the smallest power of two that covers the picture."""
    amount, decay = parameters
    size = len(x)
    clouds = plasma(1 << (size - 1).bit_length(), decay, random)[:size, :size, None]
    most = x.max()
    return np.asarray((x + amount * clouds) * (most / (most + amount)))


def frost(x: Floats, parameters: tuple[float, float], random: np.random.Generator) -> Floats:
    """A texture of ice over the picture, in the place of the authors' photographs: clouds and needles in three
    directions that are 60 degrees apart, in the levels and contrast of one of the photographs."""
    kept, laid = parameters
    mean, deviation = FROSTS[int(random.integers(len(FROSTS)))]
    ice = np.clip(np.array(mean) + np.array(deviation) * _ice(len(x), random)[:, :, None], 0, 255) / 255
    return kept * x + laid * ice


def _ice(size: int, random: np.random.Generator) -> Floats:
    """(size, size) with mean 0 and deviation 1."""
    seeds = np.maximum(random.normal(size=(size, size)) - 1.5, 0.0)
    first = random.uniform(0, 60)
    radius = 12 if table_of(size) == 224 else 3  # the authors shrink their photographs to a fifth
    needles = np.max([along_a_line(seeds, radius, radius / 2, first + turn) for turn in (0, 60, 120)], axis=0)
    clouds = plasma(1 << (size - 1).bit_length(), 1.7, random)[:size, :size]
    ice = _standard(needles) + _standard(clouds)
    return _standard(ice)


def _standard(x: Floats) -> Floats:
    return np.asarray((x - x.mean()) / (x.std() or 1.0))  # no needle at all may grow on a small picture


def snow(x: Floats, parameters: tuple[float, ...], random: np.random.Generator) -> Floats:
    """Flakes that fall at a slant, and once more turned by half a turn, over a picture that is made paler."""
    mean, deviation, zoom, least, radius, sigma, kept = parameters
    flakes = zoomed(random.normal(mean, deviation, x.shape[:2]), zoom)
    flakes[flakes < least] = 0.0
    flakes = np.floor(np.clip(flakes, 0, 1) * 255)  # the authors blur levels of 8 bits
    fallen = np.rint(along_a_line(flakes, int(radius), sigma, random.uniform(-135, -45))) / 255
    pale = kept * x + (1 - kept) * np.maximum(x, (x @ LUMA)[:, :, None] * 1.5 + 0.5)
    return np.asarray(pale + (fallen + np.rot90(fallen, 2))[:, :, None])


def spatter(
    x: Floats, parameters: tuple[float, float, float, float, float, str], random: np.random.Generator
) -> Floats:
    """Drops of water, or of mud, on the lens.

    Mud is the authors'. Water is theirs but for how its rims are found: they run OpenCV's edge detector, this takes the
    outermost pixels of each drop.
    """
    mean, deviation, sigma, least, amount, kind = parameters
    liquid = gaussian(random.normal(mean, deviation, x.shape[:2]), sigma)
    if kind == "mud":
        cover = gaussian((liquid > least).astype(np.float64), amount)[:, :, None]
        cover[cover < 0.8] = 0.0
        return np.asarray(x * (1 - cover) + np.array((63, 42, 20)) / 255 * cover)
    liquid[liquid < least] = 0.0
    drops = liquid > 0
    rims = drops & ~ndimage.binary_erosion(drops, border_value=1)
    if not rims.any():
        return x
    distance = np.minimum(ndimage.distance_transform_edt(~rims), 20.0)
    distance = _equalized(np.floor(ndimage.uniform_filter(distance, 3, mode="mirror")).astype(int))
    relief = np.clip(ndimage.correlate(distance, [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], mode="mirror"), 0, 255)
    water = liquid * ndimage.uniform_filter(relief, 3, mode="mirror")
    if water.max() == 0.0:
        return x
    return np.asarray(x + (amount * water / water.max())[:, :, None] * np.array((175, 238, 238)) / 255)


def _equalized(levels: np.ndarray) -> Floats:
    """Levels such that all from 0 to 255 are about as frequent."""
    share = np.bincount(levels.ravel()).cumsum()
    first = share[levels.min()]
    spread = max(1, levels.size - first)
    return np.rint((share[levels] - first) / spread * 255)
