"""Decoding, shrinking and encoding single images, with Pillow.

Whatever a file holds becomes RGB in one way: transparent pixels are laid over white, palettes are resolved, CMYK is
converted by Pillow without a colour profile, 16-bit grey keeps its upper 8 bits. Orientation tags are ignored, as in
torchvision and in the way ImageNet is used.
"""

from __future__ import annotations

import io
import threading
import zlib

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from headrace.shards import JPG
from headrace.shards.formats.images import PNG_SIGNATURE, ImageHeader, image_header

MAX_PIXELS = 1 << 26
"""Larger images (67 million pixels) are refused before they are decoded: a few bytes can claim to be gigabytes."""
MAX_SCANS = 500
"""Scans of a JPEG. Each runs over the whole picture, so that a small file with a million empty ones decodes for hours;
encoders write about ten."""
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What Pillow may take a file for. Others are no pictures of a data set, and for some it starts other programs."""


def open_image(data: bytes) -> Image.Image:
    """The image, its pixels not decoded yet; ValueError where it is none or has too many pixels."""
    try:
        check_scans(data)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # Pillow's readers fail on damaged files in a dozen ways, assertions among them
        raise ValueError(plain(error)) from error
    check_pixels(*image.size)
    return image


def check_pixels(width: int, height: int) -> None:
    """ValueError above the limit."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, more than the limit of {MAX_PIXELS:,}")


def check_scans(data: bytes) -> None:
    """ValueError for a JPEG with more scans than any encoder writes."""
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")


def plain(error: Exception) -> str:
    """The text of Pillow's error without the address of the stream, and what it is where that is odd."""
    if not isinstance(error, OSError | SyntaxError | ValueError | EOFError | Image.DecompressionBombError):
        return f"damaged ({type(error).__name__}: {error})"
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
    except Exception as error:
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


def to_jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG of RGB pixels (H, W, 3), colours at half resolution as is the default of Pillow, OpenCV and ffcv."""
    jpeg: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420", fastdct=False)
    return jpeg


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
    check_scans(data)
    if header.encoding == JPG and header.channels != 4:
        # All of the file is read, but only an eighth of each side is computed.
        simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, min_height=1, min_width=1, strict=True)
        return
    image = open_image(data)
    try:
        image.load()
    except Exception as error:
        raise ValueError(plain(error)) from error


def check_structure(data: bytes, header: ImageHeader | None = None) -> bool:
    """True if a JPEG or PNG is whole as far as its structure tells, at a tenth of the cost of decoding it.

    A JPEG passes if it is an ordinary one (8 bits, grey or colour, Huffman codes, no restart markers), its segments
    follow each other up to an end marker that is the file's end, its scans hold every coefficient, and none has a hole
    of zeros; a PNG if its chunks do, with their checksums. So no truncated file passes, whatever its thumbnail ends
    with, and only an undamaged one needs no decoding. Changed bits within the scan of a JPEG are not seen. False says
    nothing: decode the file. `header` is the file's, where the caller has it.
    """
    try:
        header = header or image_header(data)
        if header.width * header.height > MAX_PIXELS:
            return False
        return whole_jpeg(data) if header.encoding == JPG else whole_png(data)
    except (ValueError, IndexError):
        return False


HOLE = bytes(32)
"""So many zero bytes hardly ever occur in a scan; a block that a disk or a download lost has 512 or more."""
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2


def whole_jpeg(data: bytes) -> bool:
    """`check_structure` of a JPEG (ITU-T T.81, annex B); IndexError or False where it is not whole."""
    at, end = 2, len(data) - 2
    quantization: set[int] = set()
    huffman: set[int] = set()
    frame, blocks = 0, 0
    missing: dict[int, list[int]] = {}  # of each component: bits that each of 64 coefficients lacks, -1 for all
    markers: npt.NDArray[np.bool_] | None = None
    while at < end:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if data[at] != 0xFF or length < 2 or at + 2 + length > end:
            return False
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xDB:
            while body:
                quantization.add(body[0] & 15)
                body = body[129 if body[0] >> 4 else 65 :]
        elif marker == 0xC4:
            while body:
                huffman.add(body[0])
                body = body[17 + sum(body[1:17]) :]
        elif marker in (BASELINE, EXTENDED, PROGRESSIVE):
            if frame or len(body) != 6 + 3 * body[5] or body[0] != 8 or body[5] not in (1, 3):
                return False
            frame = marker
            blocks = -(-(body[1] << 8 | body[2]) // 8) * -(-(body[3] << 8 | body[4]) // 8)
            for component, sampling in zip(body[6::3], body[7::3], strict=True):
                if not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4):
                    return False
                missing[component] = [-1] * 64
            if len(missing) != body[5] or not quantization.issuperset(body[8::3]):
                return False
        elif marker == 0xDA:
            markers = marker_places(data) if markers is None else markers
            stop = at + int(markers[at:].argmax())
            if not markers[stop] or not scan_fits(body, frame, missing, huffman):
                return False
            # Each block of a sequential scan has at least a bit for DC and one for AC.
            if frame != PROGRESSIVE and stop - at < blocks // 4:
                return False
            if data.find(HOLE, at, stop) >= 0:
                return False
            at = stop
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # application segments and comments
            return False
    return at == end and data[at:] == b"\xff\xd9" and frame > 0 and not any(map(any, missing.values()))


class MarkerScratch(threading.local):
    """Memory that `marker_places` uses again: new memory for each file would take longer than the work in it."""

    def __init__(self) -> None:
        self.memory = np.empty((2, 1 << 20), np.bool_)

    def of(self, size: int) -> npt.NDArray[np.bool_]:
        """(2, size)"""
        return self.memory[:, :size] if size <= self.memory.shape[1] else np.empty((2, size), np.bool_)


marker_scratch = MarkerScratch()


def marker_places(data: bytes) -> npt.NDArray[np.bool_]:
    """(bytes of the file,): True where a byte FF begins a marker, which is where no 00 follows it.

    Good until this thread calls again.
    """
    content = np.frombuffer(data, np.uint8)
    found, followed = marker_scratch.of(len(content))
    np.equal(content, 0xFF, out=found)
    np.not_equal(content[1:], 0, out=followed[:-1])
    followed[-1] = False
    return np.logical_and(found, followed, out=found)


def scan_fits(body: bytes, frame: int, missing: dict[int, list[int]], huffman: set[int]) -> bool:
    """May a scan with this header follow (T.81, B.2.3 and G.1.1.1.1)? Notes in `missing` what it brings."""
    count = body[0]
    if len(body) != 4 + 2 * count or count < 1:
        return False
    first, last, high, low = body[-3], body[-2], body[-1] >> 4, body[-1] & 15
    if frame == PROGRESSIVE:
        if not (first == last == 0 or (0 < first <= last < 64 and count == 1)) or (high and high != low + 1):
            return False
    elif (first, last, high, low) != (0, 63, 0, 0):
        return False
    for component, tables in zip(body[1:-3:2], body[2:-3:2], strict=True):
        dc, ac = tables >> 4, tables & 15
        if (first == 0 and not high and dc not in huffman) or (last > 0 and 0x10 | ac not in huffman):
            return False  # refining DC takes plain bits, no table
        before = missing[component][first : last + 1] if component in missing else []
        if before != [high or -1] * (last + 1 - first):
            return False
        missing[component][first : last + 1] = [low] * len(before)
    return True


PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def whole_png(data: bytes) -> bool:
    """`check_structure` of a PNG (ISO 15948, clause 5 and 11.2)."""
    at, names = len(PNG_SIGNATURE), []
    while at + 12 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data) or zlib.crc32(data[at + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], "big"):
            return False
        names.append(name)
        at = stop
    if at != len(data) or names[0] != b"IHDR" or names[-1] != b"IEND" or b"IDAT" not in names:
        return False
    first, count = names.index(b"IDAT"), names.count(b"IDAT")
    known = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
    return (
        data[8:12] == b"\0\0\0\r"
        and data[24] in PNG_DEPTHS[data[25]]
        and data[26:28] == b"\0\0"
        and data[28] < 2
        and names[first : first + count] == [b"IDAT"] * count
        and all(names.count(name) <= 1 for name in known - {b"IDAT"})
        and (data[25] != 3 or b"PLTE" in names[:first])
        and all(name in known or name[0] & 0x20 for name in names)  # other chunks may be skipped only in lower case
    )
