"""Encoding single images."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image


def to_jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG of RGB pixels (H, W, 3), colours at half resolution as is the default of Pillow, OpenCV and ffcv."""
    jpeg: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420", fastdct=False)
    return jpeg


def to_png(image: Image.Image) -> bytes:
    """A PNG; its content decides its bytes, not the settings of the machine."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()
