"""Pictures that say how they are to be shown, and Pillow's word on how that looks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

ORIENTATIONS = range(1, 9)
ORIENTATION_TAG = 0x112


def quarters(height: int = 61, width: int = 94) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3): four coloured quarters with noise, so that every turn and mirror shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    pixels[:top, :left], pixels[:top, left:] = (200, 30, 40), (30, 180, 60)
    pixels[top:, :left], pixels[top:, left:] = (40, 60, 210), (220, 210, 50)
    return pixels + np.random.default_rng(0).integers(0, 12, pixels.shape, np.uint8)


def encoded(pixels: npt.NDArray[np.uint8], format: str, orientation: int | None = None, **options: Any) -> bytes:
    """A file; with a tag where one is given."""
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        options["exif"] = exif
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def shown(data: bytes) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) as Pillow says that a file is to be shown."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def stored(data: bytes) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) as Pillow decodes a JPEG or PNG."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
