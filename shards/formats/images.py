"""Size, encoding and orientation of an image from its headers, without decoding it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from headrace.shards.fields import JPG, OTHER, PNG
from headrace.shards.formats.orientation import EXIF_START, TAG, TRANSPOSED, UPRIGHT, exif_orientation


class ImageHeader(NamedTuple):
    """What the header of an encoded image says."""

    encoding: int
    """0 jpg or 2 png, as in `IMAGE_ENCODINGS`; 3 for `OTHER`."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    channels: int
    """Components: 1 grey, 3 colour, 4 CMYK for JPEG; 1 grey or palette, 2 grey and alpha, 3, 4 for PNG."""
    plain: bool
    """True where any decoder gives 8-bit grey or RGB: no palette, alpha, transparent colour, 16 bits or CMYK."""
    orientation: int = UPRIGHT
    """How the file says it is to be shown, see `headrace.shards.formats.orientation`: of a JPEG the first APP1 segment
    with EXIF before the frame header, of a PNG the chunk eXIf. Sizes are those of the stored picture."""


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Start-of-frame markers: all of C0 to CF but DHT (C4), JPG (C8) and DAC (CC).
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
EXIF_TAIL = 1 << 16
"""Bytes at the end of a PNG in which a chunk eXIf may stand behind the pixels, where exiftool puts it."""
MAX_MARKERS = 1 << 16
"""Markers and fill bytes before the start of frame; files have dozens, and a gigabyte of fill bytes takes minutes."""


def image_header(data: bytes | memoryview) -> ImageHeader:
    """Header of a JPEG (ITU-T T.81, B.2.2) or PNG (ISO 15948, 11.2.2); ValueError on anything else."""
    start = bytes(data[:33])
    if start[:8] == PNG_SIGNATURE:
        return png_header(start, data)
    if start[:3] == b"\xff\xd8\xff":
        return jpeg_header(data)
    raise ValueError("empty" if not start else f"neither JPEG nor PNG (starts with {start[:4].hex()})")


def orientation_of(data: bytes | memoryview) -> int:
    """What `image_header` says of how a file is to be shown; 1 where it has no header that can be read."""
    try:
        return image_header(data).orientation
    except (ValueError, IndexError):
        return UPRIGHT


PILLOWS = ("AVIF", "JPEG2000", "PPM", "TIFF")
"""What Pillow may take other pictures for."""


def picture_header(data: bytes | memoryview) -> ImageHeader:
    """`image_header`, and that of any other picture that is read as another program stored it; ValueError on what is
    none.

    For GIF, BMP and WebP a few bytes are looked at, so that a scan of a set does not read all of it.
    """
    start = bytes(data[:33])
    if start[:8] == PNG_SIGNATURE or start[:3] == b"\xff\xd8\xff" or not start:
        return image_header(data)
    width = height = 0
    orientation = UPRIGHT
    if start[:6] in (b"GIF87a", b"GIF89a"):
        width, height = little(start[6:8]), little(start[8:10])
    elif start[:2] == b"BM" and start[14:18] == b"\x0c\0\0\0":  # OS/2's, of 12 bytes
        width, height = little(start[18:20]), little(start[20:22])
    elif start[:2] == b"BM":
        width, height = little(start[18:22]), abs(int.from_bytes(start[22:26], "little", signed=True))
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        width, height = webp_size(start)
        orientation = webp_orientation(data)
    else:
        width, height, orientation = size_by_pillow(data)
    if not width or not height:
        raise ValueError("a picture without a size")
    return ImageHeader(OTHER, height, width, 0, False, orientation)


def little(number: bytes) -> int:
    """An unsigned number, little endian."""
    return int.from_bytes(number, "little")


def webp_size(start: bytes) -> tuple[int, int]:
    """(width, height) of a WebP (RFC 9649, 2.5 to 2.7); zeros where there is none."""
    if start[12:16] == b"VP8X":
        return 1 + little(start[24:27]), 1 + little(start[27:30])
    if start[12:16] == b"VP8L" and start[20:21] == b"\x2f":
        bits = little(start[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if start[12:16] == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        return little(start[26:28]) & 0x3FFF, little(start[28:30]) & 0x3FFF
    return 0, 0


def webp_orientation(data: bytes | memoryview) -> int:
    """What the chunk EXIF of a WebP says (RFC 9649, 2.7.1.5)."""
    at = 12
    while at + 8 <= len(data):
        size = little(bytes(data[at + 4 : at + 8]))
        if bytes(data[at : at + 4]) == b"EXIF":
            return exif_orientation(data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return UPRIGHT


def size_by_pillow(data: bytes | memoryview) -> tuple[int, int, int]:
    """(width, height, orientation) of a picture with a header of many forms; ValueError where it is none."""
    from PIL import Image  # slow to import, and most sets need none of it

    try:
        with Image.open(io.BytesIO(data), formats=PILLOWS) as image:
            width, height = image.size
            if image.format != "TIFF":
                return width, height, exif_orientation(image.info.get("exif") or b"")
            said = getattr(image, "tag_v2", {}).get(TAG, UPRIGHT)
            orientation = said if isinstance(said, int) and 1 <= said <= 8 else UPRIGHT
            # Pillow tells the size of a TIFF as it shows it.
            return (height, width, orientation) if orientation in TRANSPOSED else (width, height, orientation)
    except Exception as error:  # Pillow's readers fail on damaged files in a dozen ways, assertions among them
        raise ValueError(f"no picture of a known type (starts with {bytes(data[:4]).hex()})") from error


def png_header(start: bytes, data: bytes | memoryview) -> ImageHeader:
    """`start` is at least the first 33 bytes of the file."""
    if len(start) < 33 or start[12:16] != b"IHDR":
        raise ValueError("PNG without its header")
    width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    depth, colour = start[24], start[25]
    if not width or not height or colour not in PNG_CHANNELS:
        raise ValueError("PNG header with an impossible size or colour type")
    plain = depth == 8 and colour in (0, 2)
    orientation = 0  # not said yet
    for chunk in islice(png_chunks(data), MAX_MARKERS):
        if chunk.name == b"tRNS":
            plain = False
        elif chunk.name == b"eXIf" and not orientation:
            orientation = exif_orientation(data[chunk.start + 8 : chunk.stop - 4])
        elif chunk.name in (b"IDAT", b"IEND"):
            orientation = orientation or late_orientation(data, chunk.stop)
            break
    return ImageHeader(PNG, height, width, PNG_CHANNELS[colour], plain, orientation or UPRIGHT)


def late_orientation(data: bytes | memoryview, start: int) -> int:
    """What a chunk eXIf says (PNG, third edition, 11.3.4.5) that stands near the end of a PNG, behind its pixels."""
    tail = bytes(data[max(start, len(data) - EXIF_TAIL) :])
    at = tail.rfind(b"eXIf")
    if at < 4:
        return UPRIGHT
    stop = at + 4 + int.from_bytes(tail[at - 4 : at], "big")
    # The four letters may stand in the pixels by chance; not with a checksum behind them.
    whole = stop + 4 <= len(tail) and zlib.crc32(tail[at:stop]) == int.from_bytes(tail[stop : stop + 4], "big")
    return exif_orientation(tail[at + 4 : stop]) if whole else UPRIGHT


class Chunk(NamedTuple):
    """A chunk of a PNG."""

    name: bytes
    start: int
    """Its first byte, of its length."""
    stop: int
    """The byte behind its checksum."""


def png_chunks(data: bytes | memoryview) -> Iterator[Chunk]:
    """The chunks of a PNG (ISO 15948, 5.3) that are there to their end, up to the first that is not."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        stop = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if stop > len(data):
            return
        yield Chunk(bytes(data[at + 4 : at + 8]), at, stop)
        at = stop


def jpeg_header(data: bytes | memoryview) -> ImageHeader:
    """Walks from marker to marker up to the start of frame."""
    at, end = 2, len(data)
    orientation = 0  # not said yet
    for _ in range(MAX_MARKERS):
        if at + 4 > end:
            break
        if data[at] != 0xFF:
            raise ValueError(f"JPEG with a broken marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker in START_OF_FRAME:
            if length < 8 or at + 10 > end:
                break
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            channels = data[at + 9]
            if not width or not height:
                raise ValueError("JPEG without a size")
            plain = data[at + 4] == 8 and channels in (1, 3)
            return ImageHeader(JPG, height, width, channels, plain, orientation or UPRIGHT)
        if marker == 0xE1 and not orientation and bytes(data[at + 4 : at + 10]) == EXIF_START:
            orientation = exif_orientation(data[at + 4 : at + 2 + length])
        if marker in (0xD9, 0xDA) or length < 2:
            break
        at += 2 + length
    raise ValueError("JPEG without a frame header")
