"""Opening pictures with Pillow, whatever their metadata are, and without limits of its own."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator

from PIL import Image

from headrace.shards.formats.heif import heif_brand
from headrace.shards.formats.images import PNG_SIGNATURE, orientation_of, png_chunks
from headrace.shards.formats.media import HEAD
from headrace.shards.formats.orientation import TAG, UPRIGHT, exif_orientation

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP", "HEIF")
"""What Pillow may take a file for. Others are no pictures of a data set, and for some it starts other programs."""
TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
"""Chunks of a PNG that no pixel depends on and that Pillow unpacks, up to a limit beyond which it refuses the file."""


def open_image(data: bytes | memoryview) -> Image.Image:
    """The image, its pixels not decoded yet; ValueError where it is none.

    The limit of pixels is the caller's to check (`headrace.pipeline.images.limits`). Pillow's own does not apply, nor
    does that of the texts in a PNG; metadata of a JPEG over which it stumbles are left out.
    """
    content = without_texts(bytes(data))
    try:
        try:
            return _opened(content)
        except Exception:
            if not is_jpeg(content):
                raise
            return _opened(b"".join(_pixel_segments(content)))
    except Exception as error:  # Pillow's readers fail on damaged files in a dozen ways, assertions among them
        raise ValueError(plain_words(error)) from error


def file_orientation(data: bytes | memoryview) -> int:
    """How a file of any format says that it is to be shown, 1 to 8; 1 where it says nothing.

    JPEG and PNG as `headrace.shards.formats.images` reads them, TIFF by its tag, others by their EXIF block. What XMP,
    or the text into which older programs put EXIF in a PNG, say does not count.
    """
    if is_jpeg(data) or bytes(data[:8]) == PNG_SIGNATURE:
        return orientation_of(data)
    try:
        image = open_image(data)
    except ValueError:
        return UPRIGHT
    if image.format == "TIFF":
        return tiff_orientation(image)
    return exif_orientation(image.info.get("exif") or b"")


def tiff_orientation(image: Image.Image) -> int:
    """The tag of a TIFF that is open, before its pixels are decoded: then Pillow turns them and takes the tag away."""
    found = getattr(image, "tag_v2", {}).get(TAG, UPRIGHT)
    return found if isinstance(found, int) and 1 <= found <= 8 else UPRIGHT


def turned_by_pillow(image: Image.Image, said: int) -> int:
    """Decodes the pixels; the orientation by which Pillow has turned them: that which a TIFF `said` where Pillow has
    taken the tag away, for other formats 1."""
    image.load()
    return said if TAG not in getattr(image, "tag_v2", (TAG,)) else UPRIGHT


def is_jpeg(data: bytes | memoryview) -> bool:
    """Whether the bytes begin as a JPEG does."""
    return bytes(data[:3]) == b"\xff\xd8\xff"


def plain_words(error: Exception) -> str:
    """The text of Pillow's error without the address of the stream, and what it is where that is odd."""
    if not isinstance(error, OSError | SyntaxError | ValueError | EOFError | Image.DecompressionBombError):
        return f"damaged ({type(error).__name__}: {error})"
    return str(error).replace("cannot identify image file", "not an image that Pillow can read").split(" <_io")[0]


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts and profiles; the same bytes where there are none, or where it is no PNG."""
    if data[:8] != PNG_SIGNATURE:
        return data
    parts, done = [], 0
    for chunk in png_chunks(data):
        if chunk.name in TEXTS:
            parts.append(data[done : chunk.start])
            done = chunk.stop
    return b"".join([*parts, data[done:]]) if parts else data


def texts_fit(data: bytes) -> bool:
    """Whether the texts and profiles in a file, if it is a PNG, are such as Pillow by itself takes, and with it most
    programs that read data sets."""
    if data[:8] != PNG_SIGNATURE:
        return True
    texts = [data[chunk.start : chunk.stop] for chunk in png_chunks(data) if chunk.name in TEXTS]
    if not texts:
        return True
    try:  # a PNG of one pixel that has them
        stream = io.BytesIO()
        Image.new("L", (1, 1)).save(stream, "PNG")
        small = stream.getvalue()
        header = 33
        Image.open(io.BytesIO(small[:header] + b"".join(texts) + small[header:]), formats=["PNG"]).load()
    except Exception:
        return False
    return True


def _opened(data: bytes) -> Image.Image:
    """`Image.open` without its limit of pixels, which could be lifted for a whole process only."""
    Image.init()
    if heif_brand(data[:HEAD]) == "heic":
        learn_heic()
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(data[:16]) is True:
            with contextlib.suppress(SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
                return factory(io.BytesIO(data), "")
    raise ValueError("not an image that Pillow can read")


def learn_heic() -> None:
    """Let Pillow read HEIC; ValueError where the package for that is not installed."""
    if "HEIF" in Image.OPEN:
        return
    try:
        import pillow_heif
    except ImportError:
        raise ValueError("a HEIC picture: pip install headrace[heic] reads it") from None
    pillow_heif.register_heif_opener()


def _pixel_segments(data: bytes) -> Iterator[bytes]:
    """A JPEG in pieces, without the segments that no pixel depends on."""
    yield data[:2]
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, stop = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:
            break
        body = data[at + 4 : stop]
        tells_colours = (marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14) or (
            marker == 0xEE and body[:5] == b"Adobe"
        )
        if tells_colours or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            yield data[at:stop]
        at = stop
    yield data[at:]
