"""Constants of colour that engines and batches share."""

from __future__ import annotations

LUMA = (0.2989, 0.587, 0.114)
"""Of red, green and blue in a grey level, as torchvision has them: they add up to less than one."""
XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Linear sRGB to CIE XYZ, a row for each of X, Y, Z; `skimage.color.rgb2lab`'s."""
D65 = (0.95047, 1.0, 1.08883)
"""XYZ of the white point D65, 2 degrees."""
