"""Size and encoding of an image from its first bytes, without decoding it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from headrace.shards.fields import JPG, OTHER, PNG


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


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Start-of-frame markers: all of C0 to CF but DHT (C4), JPG (C8) and DAC (CC).
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
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
    if start[:6] in (b"GIF87a", b"GIF89a"):
        width, height = little(start[6:8]), little(start[8:10])
    elif start[:2] == b"BM" and start[14:18] == b"\x0c\0\0\0":  # OS/2's, of 12 bytes
        width, height = little(start[18:20]), little(start[20:22])
    elif start[:2] == b"BM":
        width, height = little(start[18:22]), abs(int.from_bytes(start[22:26], "little", signed=True))
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        width, height = webp_size(start)
    else:
        width, height = size_by_pillow(data)
    if not width or not height:
        raise ValueError("a picture without a size")
    return ImageHeader(OTHER, height, width, 0, False)


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


def size_by_pillow(data: bytes | memoryview) -> tuple[int, int]:
    """(width, height) of a picture with a header of many forms; ValueError where it is none."""
    from PIL import Image  # slow to import, and most sets need none of it

    try:
        with Image.open(io.BytesIO(data), formats=PILLOWS) as image:
            return image.size
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
    for chunk in islice(png_chunks(data) if plain else (), MAX_MARKERS):
        if chunk.name in (b"IDAT", b"tRNS"):
            plain = chunk.name == b"IDAT"
            break
    return ImageHeader(PNG, height, width, PNG_CHANNELS[colour], plain)


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
            return ImageHeader(JPG, height, width, channels, data[at + 4] == 8 and channels in (1, 3))
        if marker in (0xD9, 0xDA) or length < 2:
            break
        at += 2 + length
    raise ValueError("JPEG without a frame header")
