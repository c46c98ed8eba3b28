"""CIE Lab in float64, written out after its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def lab_of(levels: NDArray[Any]) -> NDArray[np.float64]:
    """sRGB levels (..., 3), 0 to 255, to Lab with white point D65 and the constants of `skimage.color.rgb2lab`."""
    unit = levels.astype(np.float64) / 255
    linear = np.where(unit > 0.04045, ((unit + 0.055) / 1.055) ** 2.4, unit / 12.92)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
