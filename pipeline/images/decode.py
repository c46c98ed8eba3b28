"""Encoded pictures to RGB, in one way, whoever asks: engines, converters, `verify`, `show`.

Transparent pixels, and those of a colour that a PNG calls transparent, are laid over white; palettes are resolved; CMYK
is converted by Pillow without a colour profile; 16-bit grey keeps its upper 8 bits. Pictures come as they are stored,
or turned by the orientation that the caller names (`headrace.shards.formats.orientation`): whether a file's own counts
is the set's to say. What an engine's own decoder gives is the same for pictures that `ImageHeader` calls plain; the
others come here.
"""

from __future__ import annotations

import contextlib

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from headrace.pipeline.images.limits import TooLarge, check_pixels, pixel_limit
from headrace.pipeline.images.reading import is_jpeg, open_image, plain_words, tiff_orientation, turned_by_pillow
from headrace.pipeline.images.whole import Damaged, check_codes, check_scans, looks_whole
from headrace.shards import JPG
from headrace.shards.formats.images import image_header
from headrace.shards.formats.orientation import INVERSE, UPRIGHT

WHITE = (255, 255, 255, 255)


def decode_image(data: bytes | memoryview, orientation: int = UPRIGHT) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) of any still image that Pillow knows, turned as `orientation` says.

    Raises:
        ValueError: if it is none, not whole (see `headrace.pipeline.images.whole`), or has too many pixels.
    """
    return to_pixels(decode_rgb(data, orientation=orientation))


def decode_rgb(
    data: bytes | memoryview,
    max_side: int | None = None,
    *,
    max_pixels: int | None = None,
    mend: bool = False,
    orientation: int = UPRIGHT,
) -> Image.Image:
    """The image in RGB, shrunk so that no side is longer than `max_side`, turned as `orientation` says.

    A JPEG of more pixels than the limit is decoded at a half, a quarter or an eighth of its sides, where that brings it
    within the limit and leaves enough for `max_side`; not a progressive one, of which all coefficients are held.

    With `mend`, as a conversion has it, which stores the pixels anew, a JPEG that is damaged within but not truncated
    becomes what libjpeg makes of it.

    Raises:
        ValueError: as `decode_image`. `max_pixels` takes the place of `pixel_limit`.
    """
    image = open_image(data)
    said = tiff_orientation(image)
    limit = pixel_limit() if max_pixels is None else max_pixels
    try:
        if is_jpeg(data):
            if max_side is not None and image.width * image.height > limit and not image.info.get("progressive"):
                image.draft(None, within(image.size, max_side))
            check_pixels(*image.size, limit)
            with contextlib.suppress(*([Damaged] if mend else [])):
                check_codes(data)
        else:
            check_pixels(*image.size, limit)
        if max_side is not None and image.mode in ("L", "RGB"):
            # Before decoding: a JPEG far larger than wanted is decoded at a half, a quarter or an eighth.
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        turned = turned_by_pillow(image, said)
        image = to_rgb(image)
    except (TooLarge, Damaged):
        raise
    except Exception as error:
        raise ValueError(plain_words(error)) from error
    image = shrink(image, max_side)
    return image if turned == orientation else transposed(transposed(image, INVERSE[turned]), orientation)


def fast_jpeg(
    data: bytes | memoryview, buffer: npt.NDArray[np.uint8] | None = None, *, max_pixels: int | None = None
) -> npt.NDArray[np.uint8]:
    """`decode_image` of a plain JPEG in less time, where libjpeg-turbo has nothing to complain of.

    Args:
        data: the file.
        buffer: flat uint8 with room for 3 * H * W; None takes new memory.
        max_pixels: in the place of `pixel_limit`.

    Returns: uint8 (H, W, 3), over the memory of `buffer`.

    Raises:
        ValueError: where `decode_image` has the last word.
    """
    header = image_header(data)
    if header.encoding != JPG or not header.plain:
        raise ValueError("no plain JPEG")
    check_pixels(header.width, header.height, max_pixels)
    check_scans(data)
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, strict=True)
    return pixels


def for_any_decoder(data: bytes | memoryview) -> bool:
    """Whether a decoder that says nothing of a JPEG's missing codes, and knows only plain pictures, gives what
    `decode_image` gives. Every code of a JPEG is read."""
    try:
        header = image_header(data)
        if not header.plain:
            return False
        check_pixels(header.width, header.height)
        return check_codes(data) if header.encoding == JPG else looks_whole(data, header)
    except ValueError:
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as the top of this file says; ValueError for floating-point pixels."""
    if image.mode.startswith("I"):  # 16 bits, which some versions of Pillow keep in 32
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, WHITE)
        image.alpha_composite(layer)
    return image.convert("RGB")


TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Pillow's operation for each orientation; its angles go anticlockwise."""


def transposed(image: Image.Image, orientation: int) -> Image.Image:
    """A stored image as it is shown."""
    return image.transpose(TRANSPOSES[orientation]) if orientation != UPRIGHT else image


def within(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Width and height with no side longer than `max_side`, proportions kept."""
    longest = max(size)
    width, height = (max(1, -(-side * max_side // longest)) for side in size)
    return width, height


def shrink(image: Image.Image, max_side: int | None) -> Image.Image:
    """The image with no side longer than `max_side`, its proportions kept; never enlarged."""
    if max_side is not None and max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def to_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    return np.asarray(image)
