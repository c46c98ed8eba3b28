"""Headers of .npy files (numpy.lib.format, version 1.0), as bytes that do not depend on numpy's version."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np

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
    if bytes(data[:6]) != b"\x93NUMPY":
        raise ValueError("not a .npy array")
    width = 2 if data[6] == 1 else 4
    length = 8 + width + int.from_bytes(bytes(data[8 : 8 + width]), "little")
    return _parse(bytes(data[: min(length, 1 << 16)]))


@lru_cache(maxsize=4096)
def _parse(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if fortran_order and len(shape) > 1:
        raise ValueError("a Fortran-ordered array")
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return dtype, shape, stream.tell()
