"""ImageNet-C-like corruptions of pictures that have their final size, each drawn from (seed, corruption, severity,
sample).

As the authors' code has them (arXiv 1903.12261; hendrycks/robustness at 8190fe3), with these deviations, so that scores
are never called ImageNet-C's: frost is a texture of its own in the place of photographs; motion blur, also of snow, is
a line kernel and not ImageMagick's; water of `spatter` finds its rims in another way; elastic shifts count in shares of
the picture's side at any size; and the result is not saved as a JPEG of quality 85 before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.pipeline.corruptions import blur, digital, noise, weather
from headrace.pipeline.corruptions.parameters import (
    CORRUPTIONS,
    EXTRA,
    FAMILIES,
    SCORED,
    SEVERITIES,
    SMALLEST,
    parameters,
    table_of,
)

__all__ = ["CORRUPTIONS", "EXTRA", "FAMILIES", "SCORED", "SEVERITIES", "SMALLEST", "corrupt", "drawn_from", "table_of"]

_MADE_BY: Mapping[str, Callable[..., npt.NDArray[np.float64]]] = {
    name: getattr(home, name)
    for home, names in {
        noise: ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
        blur: ("gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        weather: ("snow", "frost", "fog", "brightness", "spatter"),
        digital: ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
    }.items()
    for name in names
}
_WORD = (1 << 64) - 1
_STEADY = 1e-4
"""Levels. Sums that are whole numbers but for rounding stay so when they are truncated."""


def corrupt(
    pixels: npt.NDArray[np.uint8],
    name: str,
    severity: int,
    *,
    seed: int = 0,
    sample: int = 0,
    random: Any = None,
) -> npt.NDArray[np.uint8]:
    """A corrupted copy of a picture that was resized and cropped before; any number of threads may call this.

    Args:
        pixels: uint8 (S, S, 3), RGB levels.
        name: one of CORRUPTIONS.
        severity: 1 to 5; see `headrace.pipeline.corruptions.parameters` for what it means at this size.
        seed: of all that is drawn.
        sample: number of the picture.
        random: a numpy Generator to draw from instead of `drawn_from(seed, name, severity, sample)`.

    Returns:
        uint8 (S, S, 3). Levels are clipped and truncated, as the authors' are.

    Raises:
        ValueError: for pixels that are no square RGB levels, and as `parameters` says.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] != pixels.shape[1]:
        raise ValueError(f"corruptions want square pictures, uint8 (S, S, 3), got {pixels.dtype} {pixels.shape}")
    known = parameters(name, severity, len(pixels))
    draws = drawn_from(seed, name, severity, sample) if random is None else random
    levels = 255 * np.clip(_MADE_BY[name](pixels / 255, known, draws), 0, 1)
    return (levels + _STEADY).astype(np.uint8)


def drawn_from(seed: int, name: str, severity: int, sample: int) -> np.random.Generator:
    """The generator of one corruption of one picture."""
    words = (seed & _WORD, sample & _WORD, CORRUPTIONS.index(name), severity)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
