"""Whole files, from Python: to pixels, and to files of another quality."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from headrace.pipeline.jpeg.coefficients import ALL, MARKERS, NO_TABLE, WHOLE, Frame, frame_scratch, read_scans
from headrace.pipeline.jpeg.region import decode_region
from headrace.pipeline.jpeg.scratch import DECODED, JpegScratch, jpeg_scratch, room_for
from headrace.pipeline.jpeg.transcode import Quality, TranscodeScratch, transcode_scan, transcode_scratch

LARGEST = 1 << 24
"""Pixels. Larger images are left to a library, so that a thread's memory stays below some 100 MB."""


class _Memory(threading.local):
    """Scratch memory of a thread, for the largest image so far."""

    capacity = (0, 0, 0)
    scratch: JpegScratch | None = None
    own: TranscodeScratch | None = None
    frame: Frame | None = None
    out = np.empty(0, np.uint8)

    def of(self, *needed: int) -> JpegScratch:
        """For what `jpeg_scratch` needs for an image."""
        if self.scratch is None or any(need > had for need, had in zip(needed, self.capacity, strict=True)):
            samples, width, size = (max(pair) for pair in zip(needed, self.capacity, strict=True))
            self.capacity = samples, width, size
            self.scratch = jpeg_scratch(samples, width, size)
        return self.scratch

    def to_write(self, size: int) -> tuple[TranscodeScratch, npt.NDArray[np.uint8]]:
        """For a scan of up to `size` bytes; and where it goes."""
        if self.own is None or size > len(self.out):
            self.own, self.out = transcode_scratch(size), np.empty(size, np.uint8)
        return self.own, self.out[:size]


_memory = _Memory()


def decode_whole(data: bytes, height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """uint8 (height, width, 3), equal to libjpeg-turbo's; None if libjpeg-turbo must look at the file.

    `height` and `width` are what the file's header says.
    """
    if height * width > LARGEST:
        return None
    image = np.empty((height, width, 3), np.uint8)
    scratch = _memory.of(room_for(height, width), width, len(data))
    status = decode_region(np.frombuffer(data, np.uint8), 0, 0, height, width, scratch, image)
    return image if status == DECODED else None


class Scans(NamedTuple):
    """What `read_scans` says of a file."""

    found: int
    where: int
    progressive: bool


def examine(data: bytes | memoryview, mode: int = ALL) -> Scans:
    """`headrace.pipeline.jpeg.coefficients.read_scans` of a whole file: are all of its coefficients there?

    What lies behind the end marker, be it a film, costs nothing. A file without Huffman tables has the usual ones, as
    libjpeg has it.
    """
    frame = _memory.frame = _memory.frame or frame_scratch()
    content = np.frombuffer(data, np.uint8)
    content.flags.writeable = False  # so that it is of one type for numba, and compiled once
    scans = Scans(*read_scans(content, MARKERS, _memory.of(0, 0, 0), frame))
    if scans.found != WHOLE or mode == MARKERS:
        return scans
    content = content[: scans.where]
    scans = Scans(*read_scans(content, mode, _memory.of(0, 0, len(content)), frame))
    if scans.found != NO_TABLE:
        return scans
    with_tables = np.frombuffer(b"\xff\xd8" + usual_tables() + content[2:].tobytes(), np.uint8)
    return Scans(*read_scans(with_tables, mode, _memory.of(0, 0, len(with_tables)), frame))


@lru_cache(maxsize=1)
def usual_tables() -> bytes:
    """The segments with the Huffman tables of annex K, which nearly every encoder has."""
    header = written_as(75)[0]
    found, at = b"", 2
    while header[at + 1] != 0xDA:
        segment = header[at : at + 2 + int.from_bytes(header[at + 2 : at + 4], "big")]
        found, at = found + segment * (segment[1] == 0xC4), at + len(segment)
    return found


def transcode(data: bytes, height: int, width: int, quality: int) -> bytes | None:
    """A JPEG like this one with the quantisation and Huffman tables that libjpeg-turbo has for `quality` (1 to 100).

    Only the image is kept: no comment, no EXIF, no colour profile. None where the file is not a baseline JPEG with
    4:2:0 chroma and a size of `height` x `width`, or where libjpeg-turbo must look at it.
    """
    if height * width > LARGEST:
        return None
    header, frame, tables = written_as(quality)
    scratch = _memory.of(room_for(height, width), width, len(data))
    # What is written may be larger where the quality is higher; beyond this it is not worth having.
    own, out = _memory.to_write(4 * len(data) + (1 << 16))
    status, size = transcode_scan(np.frombuffer(data, np.uint8), height, width, tables, scratch, own, out)
    if status != DECODED:
        return None
    sides = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"".join((header[: frame + 5], sides, header[frame + 9 :], out[:size].data, b"\xff\xd9"))


@lru_cache(maxsize=4)
def written_as(quality: int) -> tuple[bytes, int, Quality]:
    """What libjpeg-turbo writes in front of a scan of this quality, where its frame header is, and the tables in it."""
    example = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), quality, "RGB", "420", fastdct=False)
    steps, codes, frame, at = np.ones((2, 64)), np.zeros((2, 2, 256), np.int32), 0, 2
    while True:
        marker, length = example[at + 1], int.from_bytes(example[at + 2 : at + 4], "big")
        body, start, at = example[at + 4 : at + 2 + length], at, at + 2 + length
        if marker == 0xC0:
            frame = start
        elif marker == 0xDA:
            break
        while marker == 0xDB and body:
            steps[body[0]], body = np.frombuffer(body[1:65], np.uint8), body[65:]
        while marker == 0xC4 and body:
            kind, table = body[0] >> 4, body[0] & 15
            symbols = body[17 : 17 + sum(body[1:17])]
            for symbol, (code, length) in zip(symbols, canonical_codes(body[1:17]), strict=True):
                size = symbol & 15
                codes[table, kind, symbol] = code << size << 5 | length + size
            body = body[17 + len(symbols) :]
    biases = (steps // 2 + 0.5).astype(np.float32)
    return example[:at], frame, Quality(biases, (1 / steps).astype(np.float32), codes)


def canonical_codes(counts: bytes) -> Iterator[tuple[int, int]]:
    """The codes of a table that has so many of 1, 2, ... 16 bits, and their lengths (T.81, annex C)."""
    code = 0
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            yield code, length
            code += 1
        code <<= 1
