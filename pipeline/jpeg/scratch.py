"""What the parts of the decoder share: statuses, the form of the tables, the working memory of a thread."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

DECODED, UNSUPPORTED, DAMAGED = 0, 1, 2
"""Statuses of `decode_region`."""

LOOK_BITS = 10  # codes up to this length are decoded by one table look-up, often together with their value
MOST_BLOCKS = 6  # of an MCU with 4:2:0 chroma
STEP = 16  # samples that are upsampled and converted at a time
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
    """int16 (4, 64): quantisation steps in natural order."""
    zigzag: np.ndarray
    """int32 (PLACES,): byte offset of each place in a block of a pair."""
    natural: np.ndarray
    """int64 (64,): natural position of each place."""
    components: np.ndarray
    """int64 (3, 7): id, horizontal and vertical sampling, quantisation, DC and AC table, offset of the plane."""
    stream: np.ndarray
    """uint8: the scan without stuffed bytes."""
    segments: np.ndarray
    """int64: where each restart interval begins in `stream`, and the end."""
    blocks: np.ndarray
    """int16 (MOST_BLOCKS / 2, 8, 2, 8): coefficients of an MCU's blocks in pairs, row beside row, not dequantised."""
    coded: np.ndarray
    """int64 (MOST_BLOCKS,): 0 for a block that has a DC coefficient only."""
    places: np.ndarray
    """int64 (MOST_BLOCKS, 5): of each block of an MCU the address of its first sample in the first MCU, what to add for
    each row and each column of MCUs, bytes from one row of samples to the next, address of the quantisation steps."""
    planes: np.ndarray
    """uint8: the components' samples, MCU-aligned."""
    chroma: np.ndarray
    """int16 (2, ...): vertically blended chroma of one row, with a column more at each end."""
    upsampled: np.ndarray
    """uint8 (2, ...): chroma of one row at full width."""
    pixels: np.ndarray
    """uint8 (3 * STEP,): the last pixels of a row."""


MARGIN = 64
"""Samples by which a plane may be wider and higher than its image, so that it holds whole MCUs."""


def room_for(height: Any, width: Any) -> Any:
    """Samples of a plane that an image needs, for numbers or arrays of them."""
    return (height + MARGIN) * (width + MARGIN)


def jpeg_scratch(samples: int, width: int, size: int) -> JpegScratch:
    """Working memory for images of which each has up to `width` columns and `size` bytes and needs up to `samples`, see
    `room_for`: a tall one and a wide one together need no more than either."""
    aligned = width + MARGIN
    return JpegScratch(
        tables=np.zeros(8, _HUFFMAN_TABLE),
        quantum=np.zeros((4, 64), np.int16),
        zigzag=np.pad(32 * (_ZIGZAG // 8) + 2 * (_ZIGZAG % 8), (0, PLACES - 64), mode="edge"),
        natural=_ZIGZAG.astype(np.int64),
        components=np.zeros((3, 7), np.int64),
        stream=np.empty(size + STREAM_SLACK, np.uint8),
        segments=np.empty(size // 2 + 2, np.int64),
        blocks=np.zeros((MOST_BLOCKS // 2, 8, 2, 8), np.int16),
        coded=np.zeros(MOST_BLOCKS, np.int64),
        places=np.zeros((MOST_BLOCKS, 5), np.int64),
        planes=np.empty(3 * samples, np.uint8),
        chroma=np.empty((2, aligned), np.int16),
        upsampled=np.empty((2, 2 * aligned), np.uint8),
        pixels=np.empty(3 * STEP, np.uint8),
    )
