"""What the parts of the decoder share: statuses, the form of the tables, the working memory of a thread."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DECODED, UNSUPPORTED, DAMAGED = 0, 1, 2
"""Statuses of `decode_region`."""

LOOK_BITS = 10  # codes up to this length are decoded by one table look-up, often together with their value
STREAM_SLACK = 4096  # zero bytes behind the scan: more than the longest MCU (10 blocks of 64 coefficients) can read

_ZIGZAG = np.array(
    [
        [0, 1, 8, 16, 9, 2, 3, 10],
        [17, 24, 32, 25, 18, 11, 4, 5],
        [12, 19, 26, 33, 40, 48, 41, 34],
        [27, 20, 13, 6, 7, 14, 21, 28],
        [35, 42, 49, 56, 57, 50, 43, 36],
        [29, 22, 15, 23, 30, 37, 44, 51],
        [58, 59, 52, 45, 38, 31, 39, 46],
        [53, 60, 61, 54, 47, 55, 62, 63],
    ],
    np.int32,
).ravel()
"""Natural position of the k-th coefficient in the file, figure A.6 of T.81."""

PLACES = 64 + 16  # a damaged block's last run can end up to 16 places beyond the block

_HUFFMAN_TABLE = np.dtype(
    [
        ("look", "i4", 1 << LOOK_BITS),  # entry of each string of LOOK_BITS bits
        ("last_code", "i4", 17),  # largest code of each length, -1 where there is none
        ("offset", "i4", 17),  # what turns a code of that length into a position in `symbols`
        ("symbols", "i4", 256),
    ]
)
TABLE_SIZE = _HUFFMAN_TABLE.itemsize
LAST_CODE, OFFSET, SYMBOLS = (4 << LOOK_BITS), (4 << LOOK_BITS) + 68, (4 << LOOK_BITS) + 136


class JpegScratch(NamedTuple):
    """Working memory of one thread."""

    tables: np.ndarray
    """_HUFFMAN_TABLE (8,): 0-3 for DC, 4-7 for AC."""
    quantum: np.ndarray
    """int32 (4, PLACES): quantisation steps in the file's (zigzag) order."""
    zigzag: np.ndarray
    """int32 (PLACES,): byte offset of each place in `block`."""
    components: np.ndarray
    """int64 (3, 7): id, horizontal and vertical sampling, quantisation, DC and AC table, offset of the plane."""
    stream: np.ndarray
    """uint8: the scan without stuffed bytes."""
    segments: np.ndarray
    """int64: where each restart interval begins in `stream`, and the end."""
    block: np.ndarray
    """int16 (64): dequantised coefficients in natural order."""
    planes: np.ndarray
    """uint8: the components' samples, MCU-aligned."""
    chroma: np.ndarray
    """int16 (2, ...): vertically blended chroma of one row."""
    upsampled: np.ndarray
    """uint8 (2, ...): chroma of one row at full width."""


def jpeg_scratch(height: int, width: int, size: int) -> JpegScratch:
    """Working memory for images of up to `height` x `width` pixels and `size` bytes."""
    aligned = width + 64
    return JpegScratch(
        tables=np.zeros(8, _HUFFMAN_TABLE),
        quantum=np.zeros((4, PLACES), np.int32),
        zigzag=np.pad(2 * _ZIGZAG, (0, PLACES - 64), mode="edge"),
        components=np.zeros((3, 7), np.int64),
        stream=np.empty(size + STREAM_SLACK, np.uint8),
        segments=np.empty(size // 2 + 2, np.int64),
        block=np.zeros(64, np.int16),
        planes=np.empty(3 * aligned * (height + 64), np.uint8),
        chroma=np.empty((2, aligned), np.int16),
        upsampled=np.empty((2, 2 * aligned), np.uint8),
    )
