"""Headers of .npy files (numpy.lib.format, version 1.0), as bytes that do not depend on numpy's version."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64


@lru_cache(maxsize=4096)
def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Everything before the first element of a C-ordered array; a multiple of 64 bytes."""
    descr = dtype.descr if dtype.names else dtype.str
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    length = -(-(10 + len(text) + 1) // ALIGNMENT) * ALIGNMENT - 10
    if length > 0xFFFF:
        raise ValueError(f"array header of {length} bytes")
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode("latin1") + b"\n"


def parse_npy_header(data: bytes | memoryview) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """(dtype, shape, bytes of the header) of a C-ordered array without objects; ValueError on others."""
    if len(data) < 12 or bytes(data[:6]) != b"\x93NUMPY":
        raise ValueError("not a .npy array")
    width = 2 if data[6] == 1 else 4
    length = 8 + width + int.from_bytes(bytes(data[8 : 8 + width]), "little")
    if length > MAX_HEADER:
        raise ValueError(f"array header of {length} bytes")
    header = bytes(data[:length])
    return _parse_cached(header) if length <= USUAL_HEADER else _parse(header)


MAX_HEADER = 1 << 16
USUAL_HEADER = 1 << 10
"""Bytes; longer headers, as those of index files, are not kept."""


def _parse(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    stream = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER)
    # numpy hands the text to Python's parser, which knows a dozen ways to fail: SyntaxError, TokenError, MemoryError...
    except Exception as error:
        raise ValueError(f"damaged array header ({type(error).__name__})") from error
    if fortran_order and len(shape) > 1:
        raise ValueError("a Fortran-ordered array")
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    if dtype.itemsize < 1 or any(side < 0 for side in shape):
        raise ValueError(f"an array of {dtype} with shape {shape}")
    return dtype, tuple(map(int, shape)), stream.tell()


_parse_cached = lru_cache(maxsize=4096)(_parse)


def parse_npy(data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """The array in a .npy file, a copy; `data` has one dimension. ValueError where it is none, or is not whole."""
    dtype, shape, start = parse_npy_header(data.data)
    if math.prod(shape) * dtype.itemsize != data.size - start:
        raise ValueError(f"{data.size - start} bytes for an array of {dtype} with shape {shape}")
    return np.frombuffer(data[start:].tobytes(), dtype).reshape(shape)
