"""Bytes at an address of this process."""

from __future__ import annotations

import ctypes


def memory_at(address: int, size: int) -> memoryview:
    """The bytes at an address, without a copy. The owner must outlive the view."""
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")
