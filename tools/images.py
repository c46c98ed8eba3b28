"""Decoding, shrinking and encoding single images, with Pillow.

Whatever a file holds becomes RGB in one way: transparent pixels are laid over white, palettes are resolved, CMYK is
converted by Pillow without a colour profile, 16-bit grey keeps its upper 8 bits. Orientation tags are ignored, as in
torchvision and in the way ImageNet is used.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from headrace.shards import JPG
from headrace.shards.images import image_header

MAX_PIXELS = 1 << 26
"""Larger images (67 million pixels) are refused before they are decoded: a few bytes can claim to be gigabytes."""


def open_image(data: bytes) -> Image.Image:
    """The image, its pixels not decoded yet; ValueError where it is none or has too many pixels."""
    try:
        image = Image.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(plain(error)) from error
    check_pixels(*image.size)
    return image


def check_pixels(width: int, height: int) -> None:
    """ValueError above the limit."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, more than the limit of {MAX_PIXELS:,}")


def plain(error: Exception) -> str:
    """The text of Pillow's error without the address of the stream."""
    return str(error).replace("cannot identify image file", "not an image that Pillow can read").split(" <_io")[0]


def decode_rgb(data: bytes, max_side: int | None = None) -> Image.Image:
    """The image in RGB, shrunk so that no side is longer than `max_side`; ValueError with the reason if it cannot be
    decoded to its end."""
    image = open_image(data)
    try:
        if max_side is not None and image.mode in ("L", "RGB"):
            # Before decoding: a JPEG far larger than wanted is decoded at a half, a quarter or an eighth.
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image = to_rgb(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(plain(error)) from error
    return shrink(image, max_side)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as the top of this file says."""
    if image.mode.startswith("I"):  # 16 bits, which some versions of Pillow keep in 32
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image.alpha_composite(layer)
    return image.convert("RGB")


def shrink(image: Image.Image, max_side: int | None) -> Image.Image:
    """The image with no side longer than `max_side`, its proportions kept; never enlarged."""
    if max_side is not None and max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def to_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    return np.asarray(image)


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """A JPEG with colours at half resolution, the default of Pillow, OpenCV and ffcv."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def to_png(image: Image.Image) -> bytes:
    """A PNG; its content decides its bytes, not the settings of the machine."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def check_decodes(data: bytes) -> None:
    """ValueError with the reason unless a JPEG or PNG decodes to its end without a complaint of its library.

    This is stricter than Pillow, which passes a JPEG with damaged or missing parts as long as it ends like one.
    """
    header = image_header(data)
    check_pixels(header.width, header.height)
    if header.encoding == JPG and header.channels != 4:
        # All of the file is read, but only an eighth of each side is computed.
        simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, min_height=1, min_width=1, strict=True)
        return
    try:
        open_image(data).load()
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(plain(error)) from error
