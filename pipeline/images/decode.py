"""Compressed bytes to RGB pixels."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 1 << 28
"""Images with more pixels are refused, so that a crafted header cannot ask for all the memory."""


def decode_jpeg(data: memoryview | bytes, buffer: np.ndarray) -> np.ndarray:
    """Decode a JPEG into the front of `buffer` (flat uint8) without the GIL.

    Returns: uint8 (H, W, 3) over the memory of `buffer`.

    Raises:
        ValueError: if the bytes are damaged or the image does not fit.
    """
    return simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=buffer)


def decode_image(data: memoryview | bytes) -> np.ndarray:
    """Decode any still image that Pillow knows to uint8 (H, W, 3); transparency is dropped.

    Raises:
        ValueError: if the bytes are damaged, not an image, or have more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
